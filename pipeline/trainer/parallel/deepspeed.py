"""DeepSpeed ZeRO 0 to 3, configured by its own JSON file."""

import math
import os
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from pipeline.trainer.adapters.trained import num_elements
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.modeling.load import load_config, load_model
from pipeline.trainer.objective import Losses, make_objective
from pipeline.trainer.optimizer.make import make_optimizer, set_learning_rate
from pipeline.trainer.parallel.deepspeed_config import (
    fill_deepspeed_config,
    offloads_optimizer,
    read_deepspeed_config,
)
from pipeline.trainer.parallel.deepspeed_state import load_zero_state, zero_state
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.parts import Part
from pipeline.trainer.parallel.strategy import Accepts, evaluating


class DeepSpeed:
    """A DeepSpeed engine. Stage 3 partitions the parameters while they are loaded."""

    def __init__(self, args: TrainArgs, distributed: Distributed) -> None:
        self._distributed = distributed
        self._args = args
        deepspeed = _import_deepspeed(distributed)
        deepspeed.init_distributed(dist_backend=distributed.backend, verbose=False)
        path = Path(str(args.deepspeed))
        hidden_size = load_config(args).get_text_config().hidden_size
        config = fill_deepspeed_config(
            read_deepspeed_config(path), path, args, distributed.world_size, hidden_size
        )
        self._stage: int = config["zero_optimization"]["stage"]
        self.name = f"DeepSpeed ZeRO stage {self._stage}"
        if self._stage == 3:
            from transformers.integrations.deepspeed import HfDeepSpeedConfig

            # While this object lives, transformers makes models of partitioned parameters. It dies
            # with this call, because those that write checkpoints are made on one rank only.
            partition_while_loading = HfDeepSpeedConfig(config)  # noqa: F841
        self._autocast = args.bf16 and not config["bf16"]["enabled"]
        low_precision = args.bf16 and not self._autocast
        self.model = load_model(args, torch.bfloat16 if low_precision else torch.float32)
        self.num_parameters = sum(map(num_elements, self.model.parameters()))
        self._engine: Any = deepspeed.initialize(
            model=make_objective(self.model, args),
            optimizer=self._optimizer(config),
            config=config,
        )[0]

    def begin_step(self, learning_rate: float) -> None:
        set_learning_rate(self._engine.optimizer.param_groups, learning_rate)

    def losses(self, batch: MicroBatch) -> Losses:
        device = self._distributed.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._autocast):
            return self._engine(**vars(batch))

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        # DeepSpeed averages over ranks; the loss is normalised globally already.
        self._engine.backward(loss * self._distributed.world_size, scale_wrt_gas=False)
        if not is_last:
            self._engine.step()  # only counts the micro-step

    def evaluating(self) -> AbstractContextManager[None]:
        return evaluating(self._engine)

    def step(self, accepts: Accepts | None = None) -> float:
        assert accepts is None, "refused by keys/reporting.py"
        if self._stage == 0:  # clipped by DeepSpeed, but not recorded
            norm = torch.nn.utils.get_total_norm(
                [p.grad for p in self.model.parameters() if p.grad is not None]
            )
            self._engine.step()
        else:
            self._engine.step()
            norm = self._engine.get_global_grad_norm()
        return float(norm) if norm >= 0 else math.nan  # DeepSpeed says -1 for infinite and NaN

    def state(self) -> list[Part]:
        ranks = self._distributed
        return zero_state(self.model, self._engine, ranks.rank, ranks.world_size)

    def load_state(self, saved: SavedState) -> None:
        load_zero_state(self.model, self._engine, saved)

    def _optimizer(self, config: dict[str, Any]) -> torch.optim.Optimizer:
        optimizer = make_optimizer(self.model, self._args)
        if not offloads_optimizer(config):
            return optimizer
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(
            optimizer.param_groups,
            lr=self._args.learning_rate,
            betas=(self._args.adam_beta1, self._args.adam_beta2),
            eps=self._args.adam_epsilon,
            adamw_mode=True,
        )


def _import_deepspeed(distributed: Distributed) -> Any:
    if distributed.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when the package is imported
    # It still calls collectives by the names that torch renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    import deepspeed.ops

    # A shared-memory extension for CPU inference would be compiled at start. Training does not use
    # it, and a start that is killed while compiling leaves a lock that all later ones wait for.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
