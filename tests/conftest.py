"""Fixtures that more than one test file needs."""

from pathlib import Path

import pytest

from pipeline.builtin import ensure_builtin

_JOB = Path(__file__).resolve().parent.parent / "examples" / "job"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The builtin model, as `from_pretrained` loads it."""
    return ensure_builtin("builtin:tiny-qwen3", tmp_path_factory.mktemp("cache"), corpus=_JOB)
