"""Results into config.yaml's runtime_info.output; not a byte of the rest changes.

    output:
      run:               {id, status, exit_code, started_at, completed_at, overrides, notes}
      checkpoint_path:   {description, value: <absolute path for from_pretrained> | null}
      last_checkpoint:   {description, value: <newest complete checkpoint> | null}
      artifacts:         {train_results, train_loss_plot, training_log, training_yaml, dataset}
      training_curves:   {description, value: <wandb run id> | null}
      training_metrics:  {description, value: {final_loss, train_loss, train_runtime, total_steps}}

The reference system's keys keep their shape. Every run starts from empty, so nothing of an earlier
run can be taken for a result of this one.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import filelock
import yaml

from pipeline.config.edit import EditRefused, replace_value
from pipeline.files import write_bytes, write_text
from pipeline.paths import RunPaths
from pipeline.trainer.output_dir import OUTPUT_FILE, latest_checkpoint

logger = logging.getLogger(__name__)

OUTPUT_KEY = ("runtime_info", "output")
_GUARD_TIMEOUT_SECONDS = 60


def collect_output(
    paths: RunPaths, *, run: dict[str, Any], training_log: Path, status: dict[str, Any]
) -> dict[str, Any]:
    """The value of runtime_info.output for a run that has ended, well or not.

    Args:
        training_log: of this run alone; it exists if the trainer was started.
        run: how: id, status, exit_code, ...; files of a run that did not get so far are null.
        status: what its training wrote into trainer_status.json; empty when it did not get there,
            and then everything in output_dir is an earlier run's.
    """
    completed = run["status"] == "completed"
    trained = completed or bool(status)
    launched = training_log.exists()
    results = _read_json(paths.output_dir / "train_results.json") if completed else {}
    state = _read_json(paths.output_dir / "trainer_state.json") if trained else {}
    history = [entry for entry in state.get("log_history", []) if "loss" in entry]
    checkpoint = latest_checkpoint(paths.output_dir) if trained else None
    return {
        "run": run,
        "checkpoint_path": {
            "description": "Final model: safetensors, tokenizer and chat template.",
            "value": str(paths.output_dir) if completed else None,
        },
        "last_checkpoint": {
            "description": "Newest complete checkpoint; training.resume_from_checkpoint=latest.",
            "value": str(checkpoint.directory) if checkpoint else None,
        },
        "artifacts": {
            "train_results": _existing(paths.output_dir / "train_results.json", completed),
            "train_loss_plot": _existing(paths.output_dir / "training_loss.png", completed),
            "training_log": _existing(training_log),
            "training_yaml": _existing(paths.train_yaml, launched),
            "dataset": _existing(paths.dataset_dir / "dataset_info.json", launched),
        },
        "training_curves": {
            "description": "Weights & Biases run id.",
            "value": status.get("wandb_run_id"),
        },
        "training_metrics": {
            "description": "Last logged loss, mean loss, seconds of training, optimizer steps.",
            "value": {
                "final_loss": history[-1]["loss"] if history else None,
                "train_loss": results.get("train_loss"),
                "train_runtime": results.get("train_runtime"),
                "total_steps": state.get("global_step"),
            },
        },
    }


def write_back(config_path: Path, paths: RunPaths, output: dict[str, Any]) -> Path:
    """Put `output` into the config file; where that is impossible, beside the model.

    The file is read again: what the user changed above `output` during the run stays.

    Returns: the file that holds the values now.
    """
    guard = hashlib.sha256(str(config_path).encode()).hexdigest()[:16]
    (paths.artifacts / "locks").mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(
            paths.artifacts / "locks" / f"config-{guard}.lock", timeout=_GUARD_TIMEOUT_SECONDS
        ):
            write_bytes(config_path, replace_value(config_path.read_bytes(), OUTPUT_KEY, output))
        return config_path
    except (EditRefused, OSError, filelock.Timeout) as error:
        fallback = paths.output_dir / OUTPUT_FILE
        write_text(fallback, yaml.safe_dump({"output": output}, sort_keys=False, width=1000))
        logger.warning(
            "%s: left as it is, runtime_info.output cannot be written exactly (%s); the results "
            "are in %s",
            config_path,
            error,
            fallback,
        )
        return fallback


def _existing(file: Path, wanted: bool = True) -> str | None:
    return str(file) if wanted and file.exists() else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
