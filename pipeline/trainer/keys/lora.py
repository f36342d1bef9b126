"""Low-rank adapters (finetuning_type lora), through peft."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import OptionalText, StrictModel


class LoraKeys(StrictModel):
    """Low-rank adapters."""

    lora_rank: int = Field(default=8, ge=1)
    """Rank of the two matrices beside every target."""
    lora_alpha: Annotated[int, Field(ge=1)] | None = None
    """Their product is scaled by lora_alpha / lora_rank. null: twice the rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    lora_target: Annotated[str, Field(min_length=1)] = "all"
    """Names of modules that get an adapter, such as `q_proj,v_proj`. `all`: every linear module but
    the lm_head."""
    additional_target: OptionalText = None
    """Names of modules that are trained in full and saved with the adapter, such as `lm_head`."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(lora_rank) (rank-stabilised LoRA)."""
    use_dora: bool = False
    """Train the magnitude of every column apart from its direction (DoRA)."""
    pissa_init: bool = False
    """Start from the largest singular values of the weights instead of from zero (PiSSA)."""
    pissa_iter: int = Field(default=16, ge=-1)
    """Iterations of the fast decomposition for PiSSA. -1: the exact one, slow."""
    pissa_convert: bool = False
    """Write `pissa_converted` too: the adapter for the weights as they were before PiSSA."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the B matrices, as a multiple of that of the A matrices (LoRA+). null: the
    same."""
    loraplus_lr_embedding: float = Field(default=1e-6, gt=0)
    """Peak learning rate of embedding adapters under LoRA+."""
    adapter_name_or_path: OptionalText = None
    """Adapters to start from, separated by commas: all but the last are merged into the model, the
    last is trained on."""
    create_new_adapter: bool = False
    """Merge all of `adapter_name_or_path` and train a new adapter."""

    quantization_bit: Literal[4, 8] | None = None
    """Hold the frozen weights in 4 or 8 bits (QLoRA); needs bitsandbytes. null: in bf16 or fp32."""
    quantization_method: Literal["bnb"] = "bnb"
    """bitsandbytes, which quantises while the model is loaded."""
    quantization_type: Literal["nf4", "fp4"] = "nf4"
    """Values that 4 bits stand for."""
    double_quantization: bool = True
    """Quantise the scales of the 4-bit blocks, too."""

    @field_validator(
        "additional_target",
        "use_rslora",
        "use_dora",
        "pissa_init",
        "loraplus_lr_ratio",
        "adapter_name_or_path",
        "create_new_adapter",
        "quantization_bit",
    )
    @classmethod
    def _has_an_adapter(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("finetuning_type") in ("full", "freeze"):
            raise ValueError("needs an adapter: set finetuning_type: lora, or remove it")
        return value

    @field_validator("quantization_bit")
    @classmethod
    def _adds_to_what_is_quantized(cls, value: int | None, info: ValidationInfo) -> int | None:
        for key in ("pissa_init", "use_dora"):
            if value and info.data.get(key):
                raise ValueError(f"contradicts {key}, which computes with whole weights")
        return value

    @field_validator("pissa_convert")
    @classmethod
    def _something_to_convert(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("pissa_init"):
            raise ValueError("needs pissa_init: true; set it, or remove this")
        if value and info.data.get("use_dora"):
            raise ValueError("contradicts use_dora, whose magnitudes belong to what PiSSA left")
        return value

    @field_validator("pissa_iter")
    @classmethod
    def _some_iterations(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 iterations decompose nothing; write 16, or -1 for the exact way")
        return value
