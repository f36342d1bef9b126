"""What a run reports while it runs: trainer_log.jsonl, trainer_state.json, console, trackers.

Names and fields are those that LLaMA-Factory and Transformers write, so that existing readers work;
`grad_norm`, `tokens_per_second`, `timestamp` and the figures of reporting/step_window.py are added
to every line.
"""

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.files import to_json, write_json, write_text
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.evaluation.best import best_metric_name
from pipeline.trainer.evaluation.evaluate import Evaluation
from pipeline.trainer.output_dir import checkpoint_directory
from pipeline.trainer.reporting.delivery import Deliveries
from pipeline.trainer.reporting.rank_clock import RankReport
from pipeline.trainer.reporting.step_window import StepWindow
from pipeline.trainer.reporting.time_plan import TimeCheck, TimePlan

logger = logging.getLogger(__name__)

LOG_FILE = "trainer_log.jsonl"


class RunLog:
    """The record of one run on rank 0. Continues an earlier segment when it was resumed."""

    def __init__(
        self,
        args: TrainArgs,
        plan: Plan,
        window: StepWindow,
        time_plan: TimePlan,
        earlier: dict[str, Any],
    ) -> None:
        """`earlier` is `progress()` of the checkpoint that the run continues, or empty."""
        self._args = args
        self._plan = plan
        self._window = window
        self._output_dir = Path(args.output_dir)
        self._file = self._output_dir / LOG_FILE
        self._history: list[dict[str, Any]] = earlier.get("log_history", [])
        self._loss_sum: float = earlier.get("loss_sum", 0.0)
        self._tokens: int = earlier.get("tokens", 0)
        self._seconds_before: float = earlier.get("seconds", 0.0)
        self._step: int = earlier.get("log_step", 0)
        self._num_anomalies: int = earlier.get("anomalies", 0)
        self._num_skipped: int = earlier.get("skipped_steps", 0)
        self._started = self._last_time = time.monotonic()
        self._last_tokens = self._tokens
        self._since_log: list[float] = earlier.get("losses_since_log", [])
        self._rewards_since_log: list[dict[str, float]] = earlier.get("rewards_since_log", [])
        self.time = TimeCheck(time_plan, self._step)
        self._cut_log_to(self._step)
        self._trackers = Deliveries(args)

    def record(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float,
        lr: float,
        tokens: int,
        seconds: float,
        reports: list[RankReport],
        expert_load: list[list[float]] | None = None,
        rewards: dict[str, float] | None = None,
    ) -> None:
        """One optimizer step. `tokens` is what the global batch held, padding not counted;
        `seconds` how long it took, `reports` what every rank says about the step before;
        `expert_load` how many of them chose each expert of each layer; `rewards` are of pairs."""
        self._step = step
        self._loss_sum += loss
        self._tokens += tokens
        self._since_log.append(loss)
        self._window.add(step, seconds, reports)
        self.time.add(step, seconds)
        self._rewards_since_log.append(rewards or {})
        if step % self._args.logging_steps and step != self._plan.total_steps:
            return
        now = time.monotonic()
        mean_loss = sum(self._since_log) / len(self._since_log)
        rate = (self._tokens - self._last_tokens) / max(now - self._last_time, 1e-9)
        mean_rewards = _means(self._rewards_since_log)
        self._rewards_since_log = []
        self._since_log, self._last_time, self._last_tokens = [], now, self._tokens
        line = {
            **self._position(),
            "loss": mean_loss,
            **mean_rewards,
            "lr": lr,
            "grad_norm": grad_norm,
            "throughput": round(self._tokens / max(self.seconds, 1e-9), 2),
            "total_tokens": self._tokens,
            "tokens_per_second": round(rate, 2),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._window.take(),
            **(_balance_of(expert_load) if expert_load else {}),
        }
        self._append(line)
        self._history.append(
            {
                "epoch": line["epoch"],
                "grad_norm": grad_norm,
                "learning_rate": lr,
                "loss": mean_loss,
                **mean_rewards,
                "num_input_tokens_seen": self._tokens,
                "step": step,
            }
        )
        self._trackers.send(step, line)
        logger.info(
            "step %d/%d | loss %.4f | lr %.3g | grad norm %.3f | %s tokens/s | left %s",
            step,
            self._plan.total_steps,
            mean_loss,
            lr,
            grad_norm,
            f"{rate:,.0f}",
            line["remaining_time"],
        )

    def record_anomaly(self, step: int, what: str, rows: list[str], *, is_skipped: bool) -> None:
        """What was unusual about `step`; with `is_skipped` it is not recorded otherwise."""
        self._step = step
        self._num_anomalies += 1
        self._num_skipped += is_skipped
        line = {**self._position(), "anomaly": what, "skipped": is_skipped, "rows": rows}
        self._append(line)
        counts: dict[str, object] = {
            "anomalies": self._num_anomalies,
            "skipped_steps": self._num_skipped,
        }
        self._trackers.send(step, counts)
        logger.warning(
            "step %d/%d | %s%s | rows %s%s",
            step,
            self._plan.total_steps,
            what,
            "; the step is skipped" if is_skipped else "",
            ", ".join(rows[:16]),
            f" and {len(rows) - 16} others, in {LOG_FILE}" if len(rows) > 16 else "",
        )

    def record_evaluation(self, step: int, found: Evaluation) -> None:
        """What was measured after `step`."""
        self._last_time += found.seconds  # not the time of a step
        line = {**self._position(), **found.metrics()}
        self._append(line)
        rate = found.num_examples / max(found.seconds, 1e-9)
        entry = {
            "epoch": line["epoch"],
            **found.metrics(),
            "eval_runtime": round(found.seconds, 4),
            "eval_samples_per_second": round(rate, 3),
            "step": step,
        }
        self._history.append(entry)
        self._trackers.send(step, line)
        each = "".join(f" | {name} {loss:.4f}" for name, loss in found.by_dataset.items())
        logger.info("step %d/%d | eval loss %.4f%s", step, self._plan.total_steps, found.loss, each)

    @property
    def seconds(self) -> float:
        """Training time so far, earlier segments included."""
        return self._seconds_before + time.monotonic() - self._started

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs to continue this record."""
        return {
            "log_history": self._history,
            "loss_sum": self._loss_sum,
            "tokens": self._tokens,
            "seconds": self.seconds,
            "log_step": self._step,
            "losses_since_log": self._since_log,
            "anomalies": self._num_anomalies,
            "skipped_steps": self._num_skipped,
            "rewards_since_log": self._rewards_since_log,
        }

    def state(self, best_step: int | None = None) -> bytes:
        """The content of trainer_state.json, with the fields of Transformers' TrainerState.

        `best_step`: that of the best checkpoint, if it is to be the final model.
        """
        best: dict[str, Any] = {}
        if best_step is not None:
            (entry,) = (e for e in self._evaluations() if e["step"] == best_step)
            best["metric"] = entry[best_metric_name(self._args)]
            best["checkpoint"] = str(checkpoint_directory(self._output_dir, best_step))
        return to_json(
            {
                "best_global_step": best_step,
                "best_metric": best.get("metric"),
                "best_model_checkpoint": best.get("checkpoint"),
                "epoch": self._plan.epoch_at(self._step),
                "eval_steps": self._args.eval_steps,
                "global_step": self._step,
                "is_hyper_param_search": False,
                "is_local_process_zero": True,
                "is_world_process_zero": True,
                "log_history": self._history,
                "logging_steps": self._args.logging_steps,
                "max_steps": self._plan.total_steps,
                "num_input_tokens_seen": self._tokens,
                "num_train_epochs": self._args.num_train_epochs,
                "save_steps": self._args.save_steps,
                "stateful_callbacks": {},
                "total_flos": 0.0,
                "train_batch_size": self._args.per_device_train_batch_size,
                "trial_name": None,
                "trial_params": None,
            }
        )

    def finish(self, extra: dict[str, Any], model_step: int) -> dict[str, Any]:
        """Write the closing line and train_results.json; returns the results, with those of the
        evaluation of the final model, which was made in `model_step`."""
        self._append(self._position())
        results = {
            "effective_tokens_per_sec": round(self._tokens / max(self.seconds, 1e-9), 2),
            "epoch": self._plan.epoch_at(self._step),
            "num_input_tokens_seen": self._tokens,
            "num_anomalies": self._num_anomalies,
            "num_steps_skipped": self._num_skipped,
            "train_loss": self._loss_sum / max(self._step - self._num_skipped, 1),
            "train_runtime": round(self.seconds, 4),
            "train_samples_per_second": round(
                self._plan.documents_until(self._step) / max(self.seconds, 1e-9), 3
            ),
            "time_plan": self.time.to_record(),
            "train_steps_per_second": round(self._step / max(self.seconds, 1e-9), 3),
            **extra,
        }
        write_json(self._output_dir / "train_results.json", results, indent=4)
        evaluations = [e for e in self._evaluations() if e["step"] <= model_step]
        if evaluations:
            last = {key: value for key, value in evaluations[-1].items() if key != "step"}
            write_json(self._output_dir / "eval_results.json", last, indent=4)
            results = {**results, **last}
        write_json(self._output_dir / "all_results.json", results, indent=4)
        self.close()
        return results

    def close(self) -> None:
        self._trackers.close()

    @property
    def wandb_run_id(self) -> str | None:
        return self._trackers.wandb_run_id

    def losses(self) -> list[tuple[int, float]]:
        """Step and training loss."""
        return [(entry["step"], entry["loss"]) for entry in self._history if "loss" in entry]

    def _evaluations(self) -> list[dict[str, Any]]:
        return [entry for entry in self._history if "eval_loss" in entry]

    def _position(self) -> dict[str, Any]:
        total = self._plan.total_steps
        left = self.time.seconds_left(self._step, time.monotonic() - self._started)
        return {
            "current_steps": self._step,
            "total_steps": total,
            "epoch": round(self._plan.epoch_at(self._step), 4),
            "percentage": round(100 * self._step / total, 2),
            "elapsed_time": str(timedelta(seconds=int(self.seconds))),
            "remaining_time": str(timedelta(seconds=int(left))),
        }

    def _append(self, line: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _cut_log_to(self, step: int) -> None:
        """Forget lines after the checkpoint, so that no step appears twice."""
        if not self._file.exists():
            return
        lines = self._file.read_text("utf-8").splitlines(keepends=True)
        write_text(self._file, "".join(line for line in lines if _is_step_until(line, step)))


def _balance_of(expert_load: list[list[float]]) -> dict[str, Any]:
    """Each expert's share of the tokens, over all layers, and how uneven the worst layer is.

    `expert_load_max` is the load of its busiest expert, as a multiple of the mean.
    """
    total = sum(map(sum, expert_load))
    shares = [round(sum(loads) / total, 5) for loads in zip(*expert_load, strict=True)]
    worst = max(len(loads) * max(loads) / sum(loads) for loads in expert_load)
    return {"expert_load": shares, "expert_load_max": round(worst, 4)}


def _means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Of numbers that all steps have."""
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[-1]}


def _is_step_until(line: str, step: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # the writer was killed in the middle of it
        return False
    return bool({"loss", "eval_loss", "anomaly"} & entry.keys()) and entry["current_steps"] <= step
