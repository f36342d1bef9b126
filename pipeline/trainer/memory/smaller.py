"""Changes of a training that make it need less memory, and how much each saves."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.memory.division import Zero
from pipeline.trainer.memory.largest_batch import batch_like
from pipeline.trainer.memory.memory_plan import MemoryPlan, memory_plan
from pipeline.trainer.memory.units import size_text

NUM_NAMED = 3
_DIRECTORY = "training_config/deepspeed"


@dataclass(frozen=True)
class Change:
    """What to write into the training section, and what that saves."""

    keys: str
    saved: int
    """Bytes of a rank."""
    fits: bool

    def describe(self) -> str:
        enough = "" if self.fits else ", not enough alone"
        return f"{self.keys} (saves {size_text(self.saved)}{enough})"


def advice(changes: list[Change]) -> str:
    """A way out, for people."""
    if not changes:
        return "no single key would help enough: use more ranks, or a machine with more memory"
    return f"set in training: {'; or '.join(change.describe() for change in changes)}"


@dataclass(frozen=True)
class _Candidate:
    keys: str
    args: TrainArgs
    batch: MicroBatch
    zero: Zero | None


def changes_that_fit(
    args: TrainArgs,
    batch: MicroBatch,
    planned: MemoryPlan,
    room: int,
    *,
    on_accelerator: bool,
) -> list[Change]:
    """At most `NUM_NAMED`: first what fits into `room` bytes, in the order of how little it
    changes what is learnt; then what does not, in the order of what it saves.
    """
    found = []
    zero = Zero.of(args, planned.num_ranks)
    for ladder in _ladders(args, batch, zero, planned.num_ranks, on_accelerator=on_accelerator):
        best = None
        for rung in ladder:
            try:
                plan = memory_plan(
                    rung.args,
                    rung.batch,
                    rung.zero,
                    num_ranks=planned.num_ranks,
                    on_accelerator=on_accelerator,
                )
            except PipelineError:  # these keys do not go together
                continue
            best = Change(rung.keys, planned.total - plan.total, plan.total <= room)
            if best.fits:
                break
        if best is not None and best.saved > 0.01 * planned.total:
            found.append(best)
    found.sort(key=lambda change: (not change.fits, 0 if change.fits else -change.saved))
    return found[:NUM_NAMED]


def _ladders(
    args: TrainArgs,
    batch: MicroBatch,
    zero: Zero | None,
    num_ranks: int,
    *,
    on_accelerator: bool,
) -> Iterator[Iterator[_Candidate]]:
    """Kinds of changes; each from its smallest step to its largest."""
    yield _recomputing(args, batch, zero, on_accelerator=on_accelerator)
    yield _smaller_batches(args, batch, zero)
    yield _partitioning(args, batch, zero, num_ranks, on_accelerator=on_accelerator)
    is_plain = args.optim in ("adamw_torch", "adamw_torch_fused") and not args.use_muon
    if is_plain and not (zero is not None and zero.offloads_optimizer):
        changed = args.model_copy(update={"optim": "adamw_8bit"})
        yield iter([_Candidate("optim: adamw_8bit", changed, batch, zero)])
    yield _shorter(args, batch, zero)
    is_plain_step = args.gradient_accumulation_steps == 1 and not args.use_muon
    if is_plain_step and zero is None and (num_ranks == 1 or args.fsdp):
        keys = {"optimizer_in_backward": True, "max_grad_norm": 0.0}
        changed = args.model_copy(update=keys)
        text = "optimizer_in_backward: true, max_grad_norm: 0"
        yield iter([_Candidate(text, changed, batch, zero)])
    if args.finetuning_type == "full":
        changed = args.model_copy(update={"finetuning_type": "lora"})
        yield iter([_Candidate("finetuning_type: lora", changed, batch, zero)])


def _recomputing(
    args: TrainArgs, batch: MicroBatch, zero: Zero | None, *, on_accelerator: bool
) -> Iterator[_Candidate]:
    kinds = ["none", "selective", "full", *(["offload"] if on_accelerator else [])]
    for kind in kinds[kinds.index(args.recompute) + 1 :] if args.recompute in kinds else []:
        keys = {"disable_gradient_checkpointing": False, "checkpoint_activations": kind}
        changed = args.model_copy(update=keys)
        yield _Candidate(f"checkpoint_activations: {kind}", changed, batch, zero)


def _smaller_batches(args: TrainArgs, batch: MicroBatch, zero: Zero | None) -> Iterator[_Candidate]:
    """The global batch stays."""
    size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    while size % 2 == 0:
        size, accumulation = size // 2, 2 * accumulation
        keys = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        rows, tokens = batch.input_ids.shape
        if args.concatenates:
            tokens = max(2, round(tokens * size / args.per_device_train_batch_size))
        else:
            rows = size
        smaller = batch_like(batch, rows, tokens)
        text = ", ".join(f"{key}: {value}" for key, value in keys.items())
        yield _Candidate(text, args.model_copy(update=keys), smaller, zero)


def _partitioning(
    args: TrainArgs,
    batch: MicroBatch,
    zero: Zero | None,
    num_ranks: int,
    *,
    on_accelerator: bool,
) -> Iterator[_Candidate]:
    if args.fsdp:
        return
    if num_ranks > 1 and (zero is None or zero.stage < 3):
        yield _Candidate(
            f"deepspeed: {_DIRECTORY}/ds_z3_config.json", args, batch, Zero(3, low=args.bf16)
        )
    if on_accelerator and (zero is None or not zero.offloads_optimizer):
        offloading = Zero(3, low=args.bf16, offloads_optimizer=True, offloads_weights=True)
        file = "ds_z3_offload_config.json"
        yield _Candidate(f"deepspeed: {_DIRECTORY}/{file}", args, batch, offloading)


def _shorter(args: TrainArgs, batch: MicroBatch, zero: Zero | None) -> Iterator[_Candidate]:
    """A concatenated batch has `per_device_train_batch_size` sequences in one row."""
    rows, tokens = batch.input_ids.shape
    sequences = args.per_device_train_batch_size if args.concatenates else 1
    length = min(args.cutoff_len, tokens // sequences)
    for halvings in range(1, 5):
        cutoff_len = length // 2**halvings
        if cutoff_len < 2:
            return
        changed = args.model_copy(update={"cutoff_len": cutoff_len})
        shorter = batch_like(batch, rows, cutoff_len * sequences)
        yield _Candidate(f"cutoff_len: {cutoff_len}", changed, shorter, zero)
