"""Precision, kernels and what is recomputed."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ValidationInfo, field_validator

from pipeline.config.strict import EmptyIsNull, OptionalText, StrictModel

Recompute = Literal["none", "selective", "full", "offload"]


def _no_graphs(mode: Any) -> Any:
    if mode in ("reduce-overhead", "max-autotune"):
        raise ValueError(
            f"{mode} records a CUDA graph for every length of a micro-batch; choose default or "
            "max-autotune-no-cudagraphs"
        )
    return mode


class ComputeKeys(StrictModel):
    """Precision, kernels and what is recomputed."""

    native_keys: ClassVar[frozenset[str]] = frozenset({"checkpoint_activations"})

    bf16: bool = True
    """Compute in bfloat16. false: float32."""
    fp16: Literal[False] = False
    """float16 needs loss scaling, which the native engine does not have."""
    fp8: bool = False
    """Multiply in FP8 (e4m3, a scale for every row) in the linears of the layers, forward and for
    the gradients of their inputs; weights, their gradients and all else stay as they are. Needs
    `bf16` and an NVIDIA GPU of compute capability 8.9 or newer; CPUs compute it for tests. The loss
    with and without it is reported before the first step. Not for adapters."""
    flash_attn: Literal["auto", "disabled", "sdpa", "flex", "fa2", "fa3"] = "auto"
    """Attention kernels. `auto`: PyTorch's own (sdpa); `disabled`: eager; `fa2`, `fa3`:
    FlashAttention, where its package is installed, else as `auto`; `flex`: FlexAttention
    with one block mask for packed documents and shared prefixes, on accelerators only and in the
    native engine only."""
    rope_scaling: Annotated[Literal["linear", "dynamic", "yarn", "llama3"] | None, EmptyIsNull] = (
        None
    )
    """How positions are stretched when `cutoff_len` exceeds the model's own length, by a whole
    factor and with LLaMA-Factory's parameters. null: a longer `cutoff_len` is refused."""
    disable_gradient_checkpointing: bool = False
    """Keep all activations: faster, more memory."""
    use_unsloth_gc: bool = False
    """Gradient checkpointing that keeps the inputs of layers in host memory."""
    checkpoint_activations: Literal["auto", "none", "selective", "full", "offload"] = "auto"
    """What a layer computes again in the backward pass. `none`: nothing; `selective`: all but
    attention, whose result is kept; `full`: everything; `offload`: everything, from inputs kept in
    host memory. `auto`: offload with `use_unsloth_gc`, none with `disable_gradient_checkpointing`,
    full with `flash_attn: flex`, else selective."""
    enable_liger_kernel: bool = False
    """Liger's kernels for norms and gated MLPs, where liger-kernel is installed. The loss is
    computed in chunks without it, too. Not together with `torch_compile`, which fuses the same."""
    torch_compile: bool = False
    """Compile each transformer layer, but for its attention: slower first steps, faster ones after
    them. Not with ZeRO-3."""
    torch_compile_backend: OptionalText = None
    """One of PyTorch's backends. null: inductor. It implies `torch_compile`."""
    torch_compile_mode: (
        Annotated[Literal["default", "max-autotune-no-cudagraphs"], BeforeValidator(_no_graphs)]
        | None
    ) = None
    """Inductor's mode: `max-autotune-no-cudagraphs` tries out kernels when it compiles. null:
    default. It implies `torch_compile`."""
    full_determinism: bool = False
    """Deterministic kernels only: bit-identical reruns, slower."""

    @field_validator("fp8")
    @classmethod
    def _replaces_bf16(cls, fp8: bool, info: ValidationInfo) -> bool:
        if fp8 and info.data.get("bf16") is False:
            raise ValueError("its products take the place of bf16's; set bf16: true, or remove it")
        if fp8 and info.data.get("finetuning_type") == "lora":
            raise ValueError(
                "adapters compute beside the linears it would replace; set finetuning_type to full "
                "or freeze, or remove it"
            )
        return fp8

    @field_validator("torch_compile", "torch_compile_backend", "torch_compile_mode")
    @classmethod
    def _fused_once(cls, value: bool | str | None, info: ValidationInfo) -> bool | str | None:
        if value and info.data.get("enable_liger_kernel"):
            raise ValueError("contradicts enable_liger_kernel: choose one of them")
        return value

    @field_validator("torch_compile_mode")
    @classmethod
    def _of_inductor(cls, mode: str | None, info: ValidationInfo) -> str | None:
        backend = info.data.get("torch_compile_backend")
        if mode and backend not in (None, "inductor"):
            raise ValueError(f"only inductor has modes, and torch_compile_backend is {backend}")
        return mode

    @field_validator("checkpoint_activations")
    @classmethod
    def _one_way(cls, kind: str, info: ValidationInfo) -> str:
        for key, its in (("disable_gradient_checkpointing", "none"), ("use_unsloth_gc", "offload")):
            if info.data.get(key) and kind not in ("auto", its):
                raise ValueError(f"contradicts {key}: choose one of them")
        if kind == "selective" and info.data.get("flash_attn") == "flex":
            raise ValueError("cannot keep what flash_attn: flex gives; choose full")
        return kind

    @property
    def compiles(self) -> bool:
        return bool(self.torch_compile or self.torch_compile_backend or self.torch_compile_mode)

    @property
    def recompute(self) -> Recompute:
        if self.checkpoint_activations != "auto":
            return self.checkpoint_activations
        if self.disable_gradient_checkpointing:
            return "none"
        if self.use_unsloth_gc:
            return "offload"
        return "full" if self.flash_attn == "flex" else "selective"
