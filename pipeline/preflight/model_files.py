"""Whether the weights of a model directory are all there."""

import json
from pathlib import Path

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def missing_weights(directory: Path) -> str:
    """What is missing, for people; "" if nothing is, or the model is not a directory here."""
    if not directory.is_dir() or any((directory / name).is_file() for name in _WHOLE):
        return ""
    index = next((directory / name for name in _INDEXES if (directory / name).is_file()), None)
    if index is None:
        return f"holds no weights ({' or '.join(_WHOLE)})"
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{index.name} is not readable"
    missing = sorted(name for name in shards if not (directory / name).is_file())
    if not missing:
        return ""
    return f"{len(missing)} of {len(shards)} weight files are missing, such as {missing[0]}"
