"""Checks that need the model: its weights and length, the template, tokens and steps."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, DataError, TrainError
from pipeline.preflight.memory import check_memory
from pipeline.preflight.model import ModelSize, model_size, readable_model
from pipeline.preflight.model_files import missing_weights
from pipeline.preflight.report import Check, Context
from pipeline.preflight.sample_run import sample_run
from pipeline.preflight.sequences import check_shared_sequences
from pipeline.preflight.source import Sample, sample_rows_of
from pipeline.trainer.data.rendering import Rendering
from pipeline.trainer.data.store import REJECTED_FILE, TokenStore
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.modeling.rope import WAY_OUT, too_long

if TYPE_CHECKING:
    from pipeline.trainer.planned_run import PlannedRun


def check_model(context: Context) -> Iterator[Check]:
    size = model_size(context)
    model = context.given.model
    yield Check("OK", "model", f"{model.model_name_or_path}: {size.num_parameters:,} parameters")
    missing = missing_weights(Path(readable_model(context)))
    if missing:
        yield Check(
            "FAIL",
            "model",
            f"{model.model_name_or_path}: {missing}",
            "download the model again, or check model.model_name_or_path",
        )
    yield from check_shared_sequences(context)
    yield from _check_length(context, size)


def check_data_for_model(context: Context) -> Iterator[Check]:
    """Chat template, tokens, steps, memory. What the data, model and engine checks report as a FAIL
    is not reported again."""
    if context.given.infrastructure.engine != "native":
        return
    try:
        model_size(context)
    except ConfigError:
        yield Check("WARN", "tokens", "no model; tokens, steps and memory are unknown")
        return
    model = context.given.model
    rendering = Rendering.of(context.given.training)
    TokenizerSource(
        readable_model(context), model.model_revision, model.trust_remote_code, rendering
    ).renderer()
    yield _check_template(rendering)
    try:
        sample = sample_rows_of(context)
    except DataError:
        sample = None
    if sample is None:
        yield Check("WARN", "tokens", "no data that can be read yet; tokens and steps are unknown")
        return
    try:
        with sample_run(context, sample) as planned:
            yield from _check_rows(planned.data.store)
            yield _check_steps(context, sample, planned)
            yield from check_memory(context, planned)
    except (ConfigError, DataError, TrainError) as error:
        yield Check("FAIL", "tokens", str(error))


def _check_template(rendering: Rendering) -> Check:
    if rendering.template != "auto":
        return Check(
            "WARN",
            "template",
            f"training.template {rendering.template}: trained as LLaMA-Factory does, which need "
            "not be what a server sends: that follows the chat template saved with the model",
            "write template: auto, or serve with the same format",
        )
    if rendering.reasoning_history == "keep":
        return Check(
            "WARN",
            "template",
            "training.reasoning_history keep: requests show the reasoning of all earlier turns, "
            "whatever the chat template does",
            "serve the model with a chat template that keeps it, or write as_template",
        )
    return Check("OK", "template", "the model's own chat template")


def _check_length(context: Context, size: ModelSize) -> Iterator[Check]:
    training = context.given.training
    reason = too_long(training.cutoff_len, training.rope_scaling, size.max_positions)
    if reason:
        yield Check("FAIL", "model", reason, WAY_OUT)
    trained = size.trained_positions
    if training.rope_scaling and trained and training.cutoff_len <= trained:
        yield Check(
            "WARN",
            "model",
            "training.rope_scaling stretches nothing: cutoff_len is within the model's "
            f"{trained:,} positions",
        )


def _check_rows(store: TokenStore) -> Iterator[Check]:
    counts = store.counts
    if counts.rows_rejected:
        with (store.directory / REJECTED_FILE).open("rb") as file:
            first = json.loads(file.readline())
        yield Check(
            "WARN",
            "tokens",
            f"{counts.rows_rejected} of {counts.rows} rows cannot be rendered and would be left "
            f"out; the first: row {first['row']}: {first['message']}",
        )
    if counts.turns_over_cutoff:
        parameters = store.parameters
        yield Check(
            "WARN",
            "tokens",
            f"{counts.turns_over_cutoff} turns lie beyond training.cutoff_len "
            f"{parameters['cutoff_len']:,} and would not be trained (cutoff_policy "
            f"{parameters['cutoff_policy']}; longest example: {counts.longest:,} tokens)",
            "raise it if memory allows",
        )


def _check_steps(context: Context, sample: Sample, planned: "PlannedRun") -> Check:
    training = context.given.training
    if training.eval_strategy != "no" and not training.evaluates:
        return Check(
            "FAIL",
            "tokens",
            f"training.eval_strategy {training.eval_strategy}: there is nothing to evaluate on",
            "set training.val_size or training.eval_dataset",
        )
    val_size, num_rows = training.val_size, sample.num_rows
    if training.max_samples:
        num_rows = min(num_rows, training.max_samples)
    held_out = math.ceil(val_size * num_rows) if val_size < 1 else int(val_size)
    if held_out >= num_rows:
        return Check(
            "FAIL",
            "tokens",
            f"training.val_size {val_size:g} would hold out {held_out:,} of {num_rows:,} rows",
            "lower it",
        )
    counts, plan = planned.data.store.counts, planned.plan
    factor = (num_rows - held_out) / counts.rows

    def scaled(count: int) -> int:
        return max(1, round(factor * count))

    notes = ""
    documents = f"{scaled(len(planned.data)):,}"
    if planned.args.share_prefixes:
        computed = scaled(int(planned.data.lengths.sum()))
        notes += f" in {documents} trees of {computed:,} tokens"
    if training.trains_pairs:
        notes += f" in {documents} pairs"
    sequences = scaled(len(plan.epochs[0]))
    if training.packs:
        notes += f" in {sequences:,} packed sequences"
    if held_out:
        notes += f", {held_out:,} rows held out"
    per_epoch = math.ceil(sequences / plan.global_batch_size)
    steps = training.max_steps
    if steps <= 0:
        steps = math.ceil(training.num_train_epochs * per_epoch)
    about = "" if sample.is_exact and factor == 1 else "about "
    return Check(
        "OK",
        "tokens",
        f"{about}{scaled(counts.examples):,} examples and {scaled(counts.tokens):,} tokens per "
        f"epoch{notes} ({100 * counts.trained_tokens / counts.tokens:.0f} % trained); global batch "
        f"{plan.global_batch_size}, {per_epoch:,} steps per epoch, {steps:,} steps in all",
    )
