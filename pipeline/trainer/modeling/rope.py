"""Rotary positions: how far a model's own reach, and how `rope_scaling` stretches them.

Imports neither torch nor transformers: the dry run checks with it.
"""

import logging
import math
from typing import Any

from pipeline.errors import ConfigError, TrainError

logger = logging.getLogger(__name__)


def max_positions(config: Any) -> int | None:
    """The longest sequence that the model as it is was made for; None: its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def trained_positions(config: Any) -> int | None:
    """The positions before any scaling that the model came with: what scaling is a multiple of."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return parameters.get("original_max_position_embeddings") or max_positions(config)


def too_long(cutoff_len: int, rope_scaling: str | None, positions: int | None) -> str | None:
    """Why sequences of `cutoff_len` tokens cannot be trained; None: they can."""
    if rope_scaling or positions is None or cutoff_len <= positions:
        return None
    return f"training.cutoff_len {cutoff_len:,} exceeds the model's {positions:,} positions"


WAY_OUT = "lower it, or stretch them with training.rope_scaling (yarn)"


def check_positions(config: Any, cutoff_len: int, rope_scaling: str | None) -> None:
    """Raises: ConfigError: the sequences are longer than the model's positions."""
    reason = too_long(cutoff_len, rope_scaling, max_positions(config))
    if reason:
        raise ConfigError(f"{reason}; {WAY_OUT}")


def scale_rope(config: Any, kind: str, cutoff_len: int) -> None:
    """Stretch the positions to `cutoff_len` by a whole factor, with LLaMA-Factory's parameters.

    As there, nothing is changed when the positions suffice, and scaling that the model came with
    is replaced.

    Raises: TrainError: the model has no rotary embedding, or several.
    Source: LLaMA-Factory src/llamafactory/model/model_utils/rope.py @ 0.9.5.
    """
    text = config.get_text_config()
    before = getattr(text, "rope_parameters", None) or {}
    positions = trained_positions(config)
    if positions is None or not before or any(isinstance(v, dict) for v in before.values()):
        raise TrainError(
            f"rope_scaling: {config.model_type} has no single rotary embedding to scale; remove it"
        )
    if cutoff_len <= positions:
        logger.warning("rope_scaling %s: %d positions suffice; not scaled", kind, positions)
        return
    factor = float(math.ceil(cutoff_len / positions))
    parameters = {
        **{key: before[key] for key in ("rope_theta", "partial_rotary_factor") if key in before},
        "rope_type": kind,
        "factor": factor,
    }
    if kind != "linear":
        parameters["original_max_position_embeddings"] = positions
    if kind == "llama3":
        parameters.update(low_freq_factor=1.0, high_freq_factor=4.0)
    text.rope_parameters = parameters
    text.max_position_embeddings = int(positions * factor)
    logger.info("rope_scaling %s: factor %g, %d positions", kind, factor, positions * factor)
