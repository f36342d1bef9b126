"""What a run tells while it goes on."""

from typing import Literal

from pydantic import Field

from pipeline.config.strict import StrictModel

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
Tracker = Literal["none", "tensorboard", "wandb", "trackio", "mlflow"]


class ReportingKeys(StrictModel):
    """What a run tells while it goes on."""

    logging_steps: int = Field(default=1, ge=1)
    """Optimizer steps between two log lines."""
    plot_loss: bool = True
    """Write training_loss.png."""
    report_to: Tracker | list[Tracker] = "none"
    """Experiment trackers: one name or a list. No step waits for them; what an outage keeps back
    is delivered later."""
    include_num_input_tokens_seen: bool = True
    """Count tokens, for throughput in every log line."""
