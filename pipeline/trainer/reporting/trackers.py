"""Experiment trackers: where the numbers of every log line go, beside trainer_log.jsonl.

Each is configured as its own documentation says (WANDB_*, TRACKIO_*, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID, TENSORBOARD_LOGGING_DIR).
"""

import importlib.util
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.keys.reporting import TRACKERS

Numbers = dict[str, float]
"""Names as trackers show them, `train/loss` or `eval/loss`."""


class Tracker(Protocol):
    """One run at one tracker. Any error means: not delivered, to be tried again."""

    def log(self, step: int, numbers: Numbers) -> None: ...

    def close(self) -> None: ...


def asked_for(report_to: str | Sequence[str]) -> list[str]:
    """The trackers that `report_to` names, each once."""
    names = [report_to] if isinstance(report_to, str) else report_to
    return [name for name in TRACKERS if name in names]


def is_installed(tracker: str) -> bool:
    return importlib.util.find_spec(tracker) is not None


def check_installed(report_to: str | Sequence[str]) -> None:
    """Raises: TrainError: a tracker that is asked for is not there."""
    for name in asked_for(report_to):
        if not is_installed(name):
            raise TrainError(
                f"report_to: {name} is not installed; pip install 'sft-pipeline[{name}]', or "
                "remove it"
            )


class TensorBoard:
    """Event files in <output_dir>/runs."""

    def __init__(self, args: TrainArgs) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        directory = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(Path(args.output_dir) / "runs")
        self._writer = SummaryWriter(directory)
        self._writer.add_text("training", f"```\n{args.model_dump_json(indent=2)}\n```")

    def log(self, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases. The id of the run is chosen here: it is known before it is reachable."""

    def __init__(self, args: TrainArgs, run_id: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]  # optional

        self._run = wandb.init(
            id=run_id, name=args.run_name, config=args.model_dump(mode="json"), resume="allow"
        )

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio, which keeps a local database."""

    def __init__(self, args: TrainArgs) -> None:
        import trackio  # pyright: ignore[reportMissingImports]  # optional

        self._trackio: Any = trackio
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "sft-pipeline"),
            name=args.run_name or None,
            config=args.model_dump(mode="json"),
            resume="allow",
        )

    def log(self, step: int, numbers: Numbers) -> None:
        self._trackio.log(numbers, step=step)

    def close(self) -> None:
        self._trackio.finish()


class MLflow:
    """A run of an MLflow server, or of the directory that MLFLOW_TRACKING_URI names."""

    def __init__(self, args: TrainArgs) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]  # optional

        self._mlflow: Any = mlflow
        self._client = mlflow.MlflowClient()
        self._run_id = os.environ.get("MLFLOW_RUN_ID") or self._new_run(args.run_name)
        self._client.log_dict(self._run_id, args.model_dump(mode="json"), "training.json")

    def _new_run(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sft-pipeline")
        known = self._client.get_experiment_by_name(experiment)
        identity = known.experiment_id if known else self._client.create_experiment(experiment)
        return self._client.create_run(identity, run_name=name or None).info.run_id

    def log(self, step: int, numbers: Numbers) -> None:
        milliseconds = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        metrics = [metric(name, value, milliseconds, step) for name, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


def new_wandb_run_id() -> str:
    """That of WANDB_RUN_ID, which continues a run, or a fresh one."""
    return os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
