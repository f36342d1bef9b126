"""Precision, kernels and what is recomputed."""

from typing import Annotated, Literal

from pipeline.config.strict import EmptyIsNull, StrictModel


class ComputeKeys(StrictModel):
    """Precision, kernels and what is recomputed."""

    bf16: bool = True
    """Compute in bfloat16. false: float32."""
    fp16: Literal[False] = False
    """float16 needs loss scaling, which the native engine does not have."""
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = "auto"
    """Attention kernels. `auto`: PyTorch's own (sdpa); `disabled`: eager."""
    rope_scaling: Annotated[Literal["linear", "dynamic", "yarn", "llama3"] | None, EmptyIsNull] = (
        None
    )
    """How positions are stretched when `cutoff_len` exceeds the model's own length, by a whole
    factor and with LLaMA-Factory's parameters. null: a longer `cutoff_len` is refused."""
    disable_gradient_checkpointing: bool = False
    """Keep all activations: faster, more memory."""
    use_unsloth_gc: bool = False
    """Selects gradient checkpointing, as in LLaMA-Factory, without its CPU offload."""
    enable_liger_kernel: bool = False
    """No effect in the native engine, which has no Liger kernels yet."""
    full_determinism: bool = False
    """Deterministic kernels only: bit-identical reruns, slower."""
