"""One plain loop over optimizer steps.

for each step:  for each micro-batch: forward, weighted loss / weight of the global batch,
                backward;  clip;  update;  log;  maybe save;  maybe stop
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import InterruptedRun, TrainError
from pipeline.files import write_bytes, write_json
from pipeline.trainer.anomaly import Watch
from pipeline.trainer.checkpoint.model_files import ModelFiles
from pipeline.trainer.checkpoint.saver import Saver, make_writer
from pipeline.trainer.checkpoint.writer import Publication
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.data.load import load_micro_batch, load_pairs
from pipeline.trainer.data.prefetch import prefetch
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.evaluation.accuracy import Scorer
from pipeline.trainer.evaluation.best import badness, best_first, has_stopped_improving
from pipeline.trainer.evaluation.evaluate import evaluate
from pipeline.trainer.evaluation.float8_parity import Float8Parity, measure_parity
from pipeline.trainer.evaluation.samples import SampleWriter
from pipeline.trainer.memory.check import MemoryCheck
from pipeline.trainer.metrics import RunLog
from pipeline.trainer.modeling.load import attention_kernel, load_config
from pipeline.trainer.optimizer.lr_schedule import learning_rate_at
from pipeline.trainer.output_dir import (
    STATE_FILE,
    STATUS_FILE,
    Checkpoint,
    checkpoint_directory,
    step_of,
)
from pipeline.trainer.parallel.context.context_parallel import ContextParallel
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy
from pipeline.trainer.peak_flops import peak_bf16_flops
from pipeline.trainer.planned_run import PlannedRun
from pipeline.trainer.plot import plot_loss
from pipeline.trainer.preference import REWARDS, reward_sums
from pipeline.trainer.reporting.rank_clock import RankClock, reports
from pipeline.trainer.reporting.step_window import StepWindow
from pipeline.trainer.reporting.time_plan import TimePlan
from pipeline.trainer.resume import trained_weights
from pipeline.trainer.stall import StallWatch
from pipeline.trainer.stop import StopRequest

logger = logging.getLogger(__name__)

_MOST_SKIPPED_IN_A_ROW = 10


class Run:
    """State of the loop between two steps."""

    def __init__(
        self,
        planned: PlannedRun,
        references: np.ndarray | None,
        strategy: Strategy,
        distributed: Distributed,
        context: ContextParallel | None,
        memory: MemoryCheck,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._args = args = planned.args
        self._plan = plan = planned.plan
        self._data = planned.data
        self._references = references
        self._strategy = strategy
        self._distributed = distributed
        self._context = context
        self._memory = memory
        self._output_dir = Path(args.output_dir)
        self._step = checkpoint.step if checkpoint else 0
        self._saved_step = self._step if checkpoint else None
        self._micro_batches = prefetch(
            self._micro_batch, self._work_of_this_rank(), distributed.device
        )
        self._saver = Saver(strategy, distributed, make_writer(args, distributed))
        self._model_files = ModelFiles.of(args, strategy.model)
        earlier = checkpoint.manifest["progress"] if checkpoint else {}
        self._badness = {
            entry["step"]: badness(args, entry)
            for entry in earlier.get("log_history", [])
            if "eval_loss" in entry
        }
        self._clock = RankClock(distributed.device)
        self._stall_watch = StallWatch(distributed.rank, args.stall_seconds)
        self._skips = args.on_anomaly == "skip"
        watched = checkpoint.manifest.get("watch", {}) if checkpoint else {}
        self._watch = Watch(args.spike_threshold, watched)
        self._anomaly: str | None = None
        self._skipped_in_a_row = 0
        self._scorer = Scorer(TokenizerSource.of(args).load()) if args.compute_accuracy else None
        self._samples: SampleWriter | None = None
        if args.eval_generation_samples:
            self._samples = SampleWriter(args, self._data, plan.held_out.tolist())
        self._fp8_parity: Float8Parity | None = None
        self._log: RunLog | None = None
        if distributed.is_main:
            devices = distributed.world_size
            time_plan = TimePlan.of(planned, devices, peak_bf16_flops(distributed.device))
            window = StepWindow(plan, devices, time_plan.of_step, time_plan.peak_flops)
            self._log = RunLog(args, plan, window, time_plan, earlier)
        self._wandb_run_id = self._log.wandb_run_id if self._log else None

    def steps(self, stop: StopRequest) -> None:
        self._write_status("running")
        if self._log is not None:
            self._log.time.announce()
        if self._args.fp8 and self._step < self._plan.total_steps:
            with self._memory.explained(self._step + 1):
                self._measure_fp8()
        while self._step < self._plan.total_steps:
            self._stall_watch.begin(self._step + 1)
            with self._memory.of_step(self._step + 1):
                stopping = self._one_step(self._step + 1, stop)
            self._stall_watch.end()
            self._step += 1
            if self._is_eval_step():
                self._evaluate()
            if self._saves_at(self._step):
                self._save()
            if stopping and self._step < self._plan.total_steps:
                self._interrupt(stop)
            if has_stopped_improving([*self._badness.values()], self._args.early_stopping_steps):
                logger.info(
                    "early_stopping_steps: the last %s evaluations found nothing better; the "
                    "training ends after step %d of %d",
                    self._args.early_stopping_steps,
                    self._step,
                    self._plan.total_steps,
                )
                break

    def _measure_fp8(self) -> None:
        """On the first micro-batch that each rank is about to train on."""
        ranks = range(self._distributed.num_data_ranks)
        firsts = [self._plan.micro_batches(self._step + 1, rank)[0] for rank in ranks]
        weight = sum(self._data.loss_weight(index) for first in firsts for index in first)
        batch = self._micro_batch(firsts[self._distributed.data_rank])
        batch = batch.to(self._distributed.device)
        self._fp8_parity = measure_parity(self._strategy, self._distributed, batch, weight)
        if self._distributed.is_main:
            self._fp8_parity.announce()

    def _one_step(self, step: int, stop: StopRequest) -> bool:
        """Returns: some rank was asked to stop."""
        self._clock.begin()
        table = self._clock.table(self._distributed.rank, self._distributed.world_size)
        batch = self._plan.global_batch(step)
        total_weight = sum(self._data.loss_weight(index) for index in batch)
        losses: list[torch.Tensor] = []
        loads: list[torch.Tensor] = []
        rewards: list[torch.Tensor] = []
        learning_rate = learning_rate_at(step, self._args, self._plan.total_steps)
        self._strategy.begin_step(learning_rate)
        num_micro_batches = len(self._plan.micro_batches(step, self._distributed.data_rank))
        for number in range(num_micro_batches):
            with self._clock.waiting_for_data():
                micro_batch = next(self._micro_batches)
            found = self._strategy.losses(micro_batch)
            is_last = number == num_micro_batches - 1
            if is_last:
                self._clock.computed()
            self._strategy.backward(found.total / total_weight, is_last=is_last)
            losses.append(found.total.detach())
            if found.expert_load is not None:
                loads.append(found.expert_load)
            if found.rewards is not None:
                rewards.append(reward_sums(found.rewards))
        flags = [float(stop.signal_name is not None), *self._saver.votes()]
        sums = self._sum_over_ranks(losses, flags, rewards, table)
        accepts = partial(self._accepts, sums[0] / total_weight) if self._skips else None
        norm = torch.as_tensor(self._strategy.step(accepts)).to(sums)
        # The host waits for the device here only, when all work of the step is under way.
        loss_all, stopping, over, failed, *others, grad_norm = torch.cat(
            [sums, norm.view(1)]
        ).tolist()
        self._saver.count([over, failed])
        rewards_all = [others.pop(0) / total_weight for _ in REWARDS if rewards]
        loss_all /= total_weight
        if not self._skips:
            self._check_finite(step, loss_all, grad_norm, batch)
            self._anomaly = self._watch.look(loss_all, grad_norm)
        if self._anomaly is not None:
            self._report_anomaly(step, self._anomaly, batch)
        load = self._expert_load(step, loads)
        if self._log is not None and not (self._anomaly and self._skips):
            self._log.record(
                step,
                loss=loss_all,
                grad_norm=grad_norm,
                lr=learning_rate,
                tokens=sum(self._data.num_tokens(index) for index in batch),
                seconds=self._clock.seconds,
                reports=reports(others),
                expert_load=load,
                rewards=dict(zip(REWARDS, rewards_all, strict=False)),
            )
        return stopping > 0

    def _check_finite(self, step: int, loss: float, grad_norm: float, batch: list[int]) -> None:
        """Raises: TrainError: it is not."""
        if not math.isfinite(loss):
            raise self._diverged(f"step {step}: the loss is {loss}", batch)
        if not math.isfinite(grad_norm):
            what = f"step {step}: the gradient norm is {grad_norm} (loss {loss:.4g})"
            raise self._diverged(what, batch)

    def _accepts(self, loss: torch.Tensor, grad_norm: float) -> bool:
        """Whether the step may update the weights; the same answer on all ranks."""
        found = self._watch.look(loss.item(), grad_norm)
        is_refused = self._distributed.all_reduce(float(found is not None), "max") > 0
        self._anomaly = (found or "unusual on another rank") if is_refused else None
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if is_refused else 0
        return not is_refused

    def _report_anomaly(self, step: int, what: str, batch: list[int]) -> None:
        """Raises: TrainError: the run is to end."""
        if self._args.on_anomaly == "stop":
            raise self._diverged(f"step {step}: {what}", batch)
        if self._skipped_in_a_row == _MOST_SKIPPED_IN_A_ROW:
            row = f"the last {_MOST_SKIPPED_IN_A_ROW} steps have all been skipped"
            raise self._diverged(f"step {step}: {what}; {row}", batch)
        if self._log is not None:
            rows = [
                f"{self._data.dataset(i)}:{row}" for i in batch for row in self._data.rows_of(i)
            ]
            self._log.record_anomaly(step, what, rows, is_skipped=self._skips)

    def _expert_load(self, step: int, loads: list[torch.Tensor]) -> list[list[float]] | None:
        """Tokens per layer and expert of this step, over all ranks, if it is one that is logged."""
        is_logged = step % self._args.logging_steps == 0 or step == self._plan.total_steps
        if not loads or not is_logged:
            return None
        return self._distributed.all_reduce(torch.stack(loads).sum(dim=0)).tolist()

    def _sum_over_ranks(
        self,
        losses: list[torch.Tensor],
        flags: list[float],
        rewards: list[torch.Tensor],
        table: torch.Tensor,
    ) -> torch.Tensor:
        """On the device: the sum of all losses, of every rank's flags, of the rewards of pairs, if
        there are any, and the tables of the ranks."""
        total = torch.stack(losses).to(table.dtype).sum(0, keepdim=True)
        rewarded = [torch.stack(rewards).to(table.dtype).sum(dim=0)] if rewards else []
        return self._distributed.all_reduce(
            torch.cat([total, total.new_tensor(flags), *rewarded, table])
        )

    def _diverged(self, what: str, batch: list[int]) -> TrainError:
        self._saver.settle()
        numbers = [row for index in batch[:16] for row in self._data.rows_of(index)]
        rows = ", ".join(map(str, numbers[:16]))
        return TrainError(
            f"{what}; the update was not saved. Rows of this batch: {rows}. Lower "
            "training.learning_rate, or look at these rows"
        )

    def _is_eval_step(self) -> bool:
        args = self._args
        if not len(self._plan.held_out):
            return False
        if self._step == self._plan.total_steps:
            return True
        if args.eval_strategy == "epoch":
            return self._step in self._plan.epoch_ends
        every = args.eval_steps or args.logging_steps
        return args.eval_strategy == "steps" and self._step % every == 0

    def _evaluate(self) -> None:
        found = evaluate(
            self._args,
            self._plan,
            self._data,
            self._micro_batch,
            self._strategy,
            self._distributed,
            self._scorer,
        )
        if self._samples is not None:
            written = self._samples.write(self._step, self._strategy, self._distributed)
            found = replace(found, scores=found.scores | written)
        self._badness[self._step] = badness(self._args, found.metrics())
        if self._log is not None:
            self._log.record_evaluation(self._step, found)

    def _micro_batch(self, indices: list[int]) -> MicroBatch:
        if self._references is not None:
            return load_pairs(self._data, indices, self._references)
        batch = load_micro_batch(self._data, indices, concatenates=self._args.concatenates)
        return batch if self._context is None else self._context.part(batch)

    def _work_of_this_rank(self) -> Iterator[list[int]]:
        """The examples of every micro-batch from the next step to the last."""
        for step in range(self._step + 1, self._plan.total_steps + 1):
            yield from self._plan.micro_batches(step, self._distributed.data_rank)

    def _saves_at(self, step: int) -> bool:
        args = self._args
        if args.save_strategy == "no":
            return False
        if step == self._plan.total_steps:
            return True
        if args.save_strategy == "epoch":
            return step in self._plan.epoch_ends
        return step % args.save_steps == 0

    def _save(self, *, only_model: bool | None = None) -> None:
        """Start to save; the checkpoint is there some steps later, or after `settle`."""
        manifest = {
            "progress": self._log.progress() if self._log else {},
            "watch": self._watch.progress(),
            "data": self._data.store.fingerprint,
            "sequence": self._plan.identity(),
            "weights": trained_weights(self._args),
            "strategy": self._strategy.name,
            "world_size": self._distributed.world_size,
        }
        leave_out = self._args.save_only_model if only_model is None else only_model
        publication = self._publication(self._step, None if leave_out else manifest)
        self._saver.save(publication, self._small_files())
        self._saved_step = self._step

    def _publication(self, step: int | None, manifest: dict[str, Any] | None) -> Publication:
        return Publication(
            output_dir=self._output_dir,
            step=step,
            world_size=self._distributed.world_size,
            manifest=manifest,
            model_files=self._model_files,
            save_total_limit=self._args.save_total_limit,
            best_first=self._best_first(),
        )

    def _small_files(self) -> dict[str, bytes]:
        """What this rank adds to a checkpoint or the final model."""
        best_step = next(iter(self._best_first()), None)
        return {STATE_FILE: self._log.state(best_step)} if self._log else {}

    def _write_small_files(self) -> None:
        for name, content in self._small_files().items():
            write_bytes(self._output_dir / name, content)

    def _best_first(self) -> list[int]:
        """Steps of evaluated checkpoints, where the best of them is to be the final model."""
        if not self._args.load_best_model_at_end:
            return []
        saved = {step: found for step, found in self._badness.items() if self._saves_at(step)}
        return best_first(saved)

    def _interrupt(self, stop: StopRequest) -> None:
        """Save so that the run can go on from here, and end it."""
        self._stall_watch.close()
        if self._saved_step != self._step or self._args.save_only_model:
            self._save(only_model=False)
        self._saver.settle(must_succeed=True)
        name = stop.signal_name or "a signal to another rank"
        self._write_status("interrupted", signal=name)
        self._write_small_files()
        if self._log is not None:
            self._log.close()
        self._distributed.close()
        raise InterruptedRun(
            f"{name}: stopped after step {self._step} of {self._plan.total_steps}, saved "
            f"{checkpoint_directory(self._output_dir, self._step)}; continue with "
            "training.resume_from_checkpoint=latest",
            saved=True,
        )

    def finish(self) -> None:
        """Final weights, tokenizer and results."""
        self._stall_watch.close()
        self._saver.settle(must_succeed=True)
        model_step = self._save_final_model()
        if self._log is not None:
            documents = self._plan.epochs[0].documents
            parity = self._fp8_parity
            tokens = int(self._plan.documents.lengths[documents].sum())
            counts = self._data.store.counts
            results = self._log.finish(
                {
                    # 2 FLOP per parameter and token forward, 4 backward.
                    "total_flos": 6.0
                    * self._strategy.num_parameters
                    * tokens
                    * self._plan.epoch_at(self._step),
                    "num_examples": self._data.num_examples(documents),
                    "num_rows_rejected": counts.rows_rejected,
                    "num_turns_over_cutoff": counts.turns_over_cutoff,
                    "attention": attention_kernel(self._args, load_config(self._args)),
                    "memory_plan": self._memory.to_record(),
                    **({"fp8_parity": parity.to_record()} if parity else {}),
                },
                model_step,
            )
            if self._args.plot_loss:
                plot_loss(self._log.losses(), self._output_dir / "training_loss.png")
            logger.info("train loss %.4f, model in %s", results["train_loss"], self._output_dir)
        self._write_status("completed")

    def _save_final_model(self) -> int:
        """The model as it is, or of the best checkpoint. Returns: the step that it was made in."""
        publication = self._publication(None, None)
        best = publication.best_checkpoint()
        if best is None or step_of(best) == self._step:
            self._saver.save(publication, self._small_files())
            self._saver.settle(must_succeed=True)
            return self._step
        self._distributed.barrier()  # all ranks have looked
        if self._distributed.is_main:
            publication.copy_model(best)
            logger.info("load_best_model_at_end: the model is that of %s", best)
        self._write_small_files()
        return step_of(best)

    def close(self) -> None:
        self._saver.close()

    def _write_status(self, status: str, **details: Any) -> None:
        if self._distributed.is_main:
            write_json(
                self._output_dir / STATUS_FILE,
                {
                    "status": status,
                    "step": self._step,
                    "total_steps": self._plan.total_steps,
                    "plan": self._plan.hash,
                    "wandb_run_id": self._wandb_run_id,
                    **details,
                },
            )
