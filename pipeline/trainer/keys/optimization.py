"""The optimizer and its learning rate."""

from typing import Literal

from pydantic import Field

from pipeline.config.strict import StrictModel


class OptimizationKeys(StrictModel):
    """The optimizer and its learning rate."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after warmup."""
    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    """Fraction of all steps over which the learning rate rises from 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Warmup in optimizer steps; above 0 it wins over `warmup_ratio`."""
    optim: Literal["adamw_torch", "adamw_torch_fused"] = "adamw_torch"
    """AdamW, plain or with fused kernels."""
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
