"""config.yaml: its schema, strict loading with positions, byte-exact edits.

Names are loaded on first use, because `pipeline.trainer.args` imports from this package and the
schema imports from there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.load import LoadedConfig, load_config

__all__ = ["LoadedConfig", "load_config"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.config import load

    return getattr(load, name)
