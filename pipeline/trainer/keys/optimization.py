"""The optimizer and its learning rate."""

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import StrictModel

_SHAPES = ("linear", "cosine", "1-sqrt")
_SCHEDULE_OPTIONS: dict[str, dict[str, type | tuple[str, ...]]] = {
    "cosine": {"num_cycles": float},
    "linear": {},
    "constant": {},
    "constant_with_warmup": {},
    "cosine_with_restarts": {"num_cycles": int},
    "cosine_with_min_lr": {"min_lr": float, "min_lr_rate": float, "num_cycles": float},
    "polynomial": {"lr_end": float, "power": float},
    "inverse_sqrt": {"timescale": int},
    "warmup_stable_decay": {
        "num_stable_steps": int,
        "num_decay_steps": int,
        "warmup_type": _SHAPES,
        "decay_type": _SHAPES,
        "min_lr_ratio": float,
        "num_cycles": float,
    },
}
"""Schedule -> its keyword arguments, with their types or values; Transformers' names."""


class OptimizationKeys(StrictModel):
    """The optimizer and its learning rate."""

    native_keys: ClassVar[frozenset[str]] = frozenset({"optimizer_in_backward"})

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate."""
    lr_scheduler_type: Literal[
        "cosine",
        "linear",
        "constant",
        "constant_with_warmup",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = "cosine"
    """Shape of the learning rate after warmup."""
    lr_scheduler_kwargs: dict[str, Any] | None = None
    """Options of the schedule, under Transformers' names: `min_lr` or `min_lr_rate`
    (cosine_with_min_lr, which needs one), `num_cycles` (cosine ...), `lr_end` and `power`
    (polynomial), `timescale` (inverse_sqrt), `num_stable_steps`, `num_decay_steps`, `warmup_type`,
    `decay_type` and `min_lr_ratio` (warmup_stable_decay)."""
    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    """Fraction of all steps over which the learning rate rises from 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Warmup in optimizer steps; above 0 it wins over `warmup_ratio`."""
    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_bf16",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "adamw_torch_8bit",
    ] = "adamw_torch"
    """AdamW: plain, with fused kernels, or with moments of 2 (`adamw_bf16`) or 1 byte each instead
    of 4. The 8-bit names mean the same: block-wise quantization that needs no package."""
    use_muon: bool = False
    """Muon for the matrices of the layers; `optim` for embeddings, lm_head, norms and biases is
    then adamw_torch. It needs whole matrices: DDP has them, `fsdp` gathers one at a time; set
    `deepspeed` to null."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Added to AdamW's denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this global L2 norm. 0: no clipping."""
    optimizer_in_backward: bool = False
    """Update each weight as soon as its gradient is complete, and free the gradient: memory for
    those of one layer instead of all. It needs one process or `fsdp`, one micro-batch per step and
    `max_grad_norm: 0`."""

    @field_validator("optimizer_in_backward")
    @classmethod
    def _sees_one_gradient_at_a_time(cls, is_on: bool, info: ValidationInfo) -> bool:
        if not is_on:
            return False
        for key, usable, why in (
            ("gradient_accumulation_steps", "1", "no gradient waits for the next micro-batch"),
            ("max_grad_norm", "0", "the norm is known when all weights are updated"),
            ("use_muon", "false", "it updates weights one by one, with AdamW"),
            ("deepspeed", "null", "DeepSpeed updates all weights at once"),
        ):
            if info.data.get(key) not in (None, int(usable == "1")):
                raise ValueError(f"{why}; set {key} to {usable}")
        if info.data.get("finetuning_type") == "lora":
            raise ValueError(
                "the gradients of adapters are small, and summed when all are complete; remove it"
            )
        return True

    @field_validator("lr_scheduler_kwargs")
    @classmethod
    def _options_of_the_schedule(
        cls, options: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        kind = info.data.get("lr_scheduler_type", "")
        known = _SCHEDULE_OPTIONS.get(kind)
        if known is None:
            return options
        for name, value in (options or {}).items():
            if name not in known:
                valid = ", ".join(known) or "none"
                raise ValueError(f"{kind} has no option {name} (valid: {valid}); remove it")
            _check_option(name, value, known[name])
        if (
            kind == "cosine_with_min_lr"
            and len({"min_lr", "min_lr_rate"} & set(options or {})) != 1
        ):
            raise ValueError(
                "cosine_with_min_lr needs either min_lr or min_lr_rate; set one of them"
            )
        peak = info.data.get("learning_rate")
        if kind == "polynomial" and peak and (options or {}).get("lr_end", 1e-7) >= peak:
            raise ValueError("lr_end must be below learning_rate; lower it")
        return options


def _check_option(name: str, value: Any, wanted: type | tuple[str, ...]) -> None:
    """Raises: ValueError: the value of an option of a schedule has the wrong type or sign."""
    if isinstance(wanted, tuple):
        if value not in wanted:
            raise ValueError(f"{name} must be {', '.join(wanted)} (got {value!r})")
        return
    kinds = (int,) if wanted is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
        what = "a whole number" if wanted is int else "a number"
        raise ValueError(f"{name} must be {what} >= 0 (got {value!r})")
