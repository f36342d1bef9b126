"""What a run tells while it goes on, and what it does about it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import StrictModel

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
Tracker = Literal["none", "tensorboard", "wandb", "trackio", "mlflow"]


class ReportingKeys(StrictModel):
    """What a run tells while it goes on, and what it does about it."""

    native_keys: ClassVar[frozenset[str]] = frozenset(
        {"on_anomaly", "spike_threshold", "stall_seconds"}
    )

    logging_steps: int = Field(default=1, ge=1)
    """Optimizer steps between two log lines."""
    plot_loss: bool = True
    """Write training_loss.png."""
    report_to: Tracker | list[Tracker] = "none"
    """Experiment trackers: one name or a list. No step waits for them; what an outage keeps back
    is delivered later."""
    include_num_input_tokens_seen: bool = True
    """Count tokens, for throughput in every log line."""
    on_anomaly: Literal["warn", "stop", "skip"] = "warn"
    """What becomes of a step whose loss or gradient norm is NaN, infinite or a spike. `warn`: a
    spike is reported with its rows, the others end the run; `stop`: all end it; `skip`: none
    updates the weights, and ten such steps in a row end the run. `skip` needs `deepspeed: null`,
    and the host waits for the device before every update."""
    spike_threshold: Annotated[float, Field(gt=0)] | None = 10.0
    """How far above the median of the last 64 steps a spike is, in standard deviations (estimated
    by the median absolute deviation). null: nothing is a spike."""

    stall_seconds: Annotated[float, Field(ge=0)] | None = None
    """Seconds after which a step that has not ended is reported, with the place where each rank
    waits. null: 20 times the usual step, at least a minute; 0: never."""

    @field_validator("on_anomaly")
    @classmethod
    def _can_be_skipped(cls, on_anomaly: str, info: ValidationInfo) -> str:
        if on_anomaly == "skip" and info.data.get("deepspeed"):
            raise ValueError(
                "skip: DeepSpeed clips and updates in one, so that no update can be left out; set "
                "deepspeed to null, or on_anomaly to stop"
            )
        if on_anomaly == "skip" and info.data.get("optimizer_in_backward"):
            raise ValueError(
                "skip: optimizer_in_backward updates weights before the step is known; set "
                "on_anomaly to stop"
            )
        return on_anomaly
