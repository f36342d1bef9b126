"""What is recorded is what ran: the files of `archives/run_NNN/`.

`freeze` writes before anything runs, from what the run was started with, so that an edit during
the run changes nothing; `add` adds what only becomes known on the way (rendered YAML, dataset
hashes), still before training; `finish` adds how it ended.

    metadata.yaml      {id, status, started_at, ..., owner}, completed at the end
    config.yaml        the bytes at the start, secrets redacted
    resolved.yaml      with defaults and overrides
    command            directory and command line, for a shell
    environment.json   machine, packages, chosen environment variables
    git.json git.diff  commit and difference; absent outside git
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import write_bytes, write_json, write_text
from pipeline.launch.machine import describe, package_versions
from pipeline.launch.project import git_state
from pipeline.runs.owner import Owner, utc_now
from pipeline.runs.redact import redact_data, redact_diff, redact_text, redact_yaml

METADATA = "metadata.yaml"

# What changes how a run behaves. Everything else in the environment is the user's own business.
RECORDED_VARIABLES = (
    *("ACCELERATE_", "CUDA_", "CUBLAS_", "DEEPSPEED_", "DS_", "FSDP_", "GLOO_", "HF_"),
    *(
        "LLAMAFACTORY_",
        "MASTER_",
        "MKL_",
        "NCCL_",
        "NVIDIA_",
        "OMP_",
        "PET_",
        "PYTHON",
        "PYTORCH_",
        "RAY_",
        "SFT_",
    ),
    *("SLURM_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "WANDB_", "LD_LIBRARY_PATH"),
    *("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CC", "CXX", "http_proxy", "https_proxy", "HTTP"),
)


class RunStatus(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Stopped by a signal."""
    REFUSED = "refused"
    """The dry run said no."""
    DIED = "died"
    """The process vanished without a word: SIGKILL, out of memory, power cut."""


def begin(directory: Path, run_id: str) -> None:
    """Write metadata.yaml for a run that the calling process starts now."""
    owner = Owner.current(run_id)
    _write_yaml(
        directory / METADATA,
        {
            "id": run_id,
            "status": RunStatus.RUNNING.value,
            "exit_code": None,
            "started_at": owner.started_at,
            "completed_at": None,
            "notes": "",
            "owner": owner.to_json(),
        },
    )


def freeze(
    directory: Path,
    *,
    run_id: str,
    config_path: Path,
    config_source: bytes,
    resolved: dict[str, Any],
    overrides: Sequence[str],
    command: Sequence[str],
    project_root: Path,
) -> None:
    """Write down everything the run starts from.

    Args:
        config_source: the bytes of `config_path` that the run uses.
        resolved: the config as used, plain data.
        overrides: `key=value` of the command line.
        command: the argv of this process.
    Raises: OSError: the directory cannot be written.
    """
    if not (directory / METADATA).exists():
        begin(directory, run_id)
    write_bytes(directory / "config.yaml", redact_yaml(config_source))
    _write_yaml(directory / "resolved.yaml", redact_data(resolved))
    line = f"cd {shlex.quote(str(Path.cwd()))} &&\n{shlex.join(command)}\n"
    write_text(directory / "command", redact_text(line))
    variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith(RECORDED_VARIABLES)}
    write_json(
        directory / "environment.json",
        {
            "machine": describe(),
            "variables": redact_data(variables),
            "packages": package_versions(),
        },
    )
    git = git_state(project_root)
    if git is not None:
        write_json(
            directory / "git.json",
            {
                "commit": git.commit,
                "branch": git.branch,
                "is_dirty": git.is_dirty,
                "changed": git.changed,
            },
        )
        diff = redact_diff(git.diff.decode("utf-8", "surrogateescape"))
        write_bytes(directory / "git.diff", diff.encode("utf-8", "surrogateescape"))
    _update_metadata(
        directory,
        {
            "config_path": str(config_path.absolute()),
            "overrides": [redact_text(override) for override in overrides],
            "git_commit": git.commit if git else None,
        },
    )


def add(directory: Path, name: str, source: Path | bytes) -> None:
    """Keep one more text file under `name`, secrets redacted.

    Args:
        source: the bytes themselves, or the file to copy.
    Raises: OSError: `source` cannot be read or the directory cannot be written.
    """
    assert Path(name).name == name, f"{name!r} is a plain file name"
    write_bytes(directory / name, redact_yaml(_content(source)))


def finish(
    directory: Path,
    status: RunStatus,
    exit_code: int | None,
    completed_at: str | None = None,
    notes: str = "",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Complete metadata.yaml with how the run ended.

    Args:
        completed_at: UTC, ISO 8601 with Z; now when None.
        extra: more keys, plain data, such as results.
    """
    _update_metadata(
        directory,
        {
            "status": status.value,
            "exit_code": exit_code,
            "completed_at": completed_at or utc_now(),
            "notes": redact_text(notes),
            **redact_data(dict(extra or {})),
        },
    )


def mark_died(directory: Path, notes: str) -> None:
    """Complete the metadata.yaml of a run whose process has vanished; when it did is unknown."""
    _update_metadata(directory, {"status": RunStatus.DIED.value, "notes": notes})


def read_metadata(directory: Path) -> dict[str, Any]:
    """The content of metadata.yaml; empty when it is absent or unreadable."""
    try:
        content = yaml.safe_load((directory / METADATA).read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _update_metadata(directory: Path, changes: dict[str, Any]) -> None:
    _write_yaml(directory / METADATA, read_metadata(directory) | changes)


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000))
