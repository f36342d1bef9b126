"""Checks that need the model: tokenizer, chat template, tokens, steps, memory."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError, DataError
from pipeline.launch.machine import memory
from pipeline.preflight.memory import ModelSize, memory_need, model_size, readable_model
from pipeline.preflight.model_files import missing_weights
from pipeline.preflight.report import Check, Context
from pipeline.preflight.sequences import check_shared_sequences
from pipeline.preflight.source import Sample, sample_rows_of
from pipeline.step2_train import nproc_per_node, visible_accelerators
from pipeline.trainer.data.cutoff import cut_example
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.packing import pack
from pipeline.trainer.data.pairs import num_pairs
from pipeline.trainer.data.renderers import RowRenderer
from pipeline.trainer.data.rendering import Rendering
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.rope import WAY_OUT, too_long

_GIB = 2**30
_TIGHT = 0.85
"""Share of the memory above which an estimate within 15 % may not fit."""


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
        size = model_size(context)
    except ConfigError:
        yield Check("WARN", "tokens", "no model; tokens, steps and memory are unknown")
        return
    model = context.given.model
    rendering = Rendering.of(context.given.training)
    renderer = TokenizerSource(
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
    yield from _check_tokens(context, size, renderer, sample)


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


def _check_tokens(
    context: Context, size: ModelSize, renderer: RowRenderer, sample: Sample
) -> Iterator[Check]:
    training = context.given.training
    cutoff_len, policy = training.cutoff_len, training.document_policy
    examples, errors = _render(renderer, sample)
    if not examples:
        reason = errors[0] if errors else "no assistant turn carries loss"
        yield Check("FAIL", "tokens", f"none of {len(sample.rows)} rows can be rendered: {reason}")
        return
    if errors:
        yield Check(
            "WARN",
            "tokens",
            f"{len(errors)} of {len(sample.rows)} rows cannot be rendered and would be left out; "
            f"the first: {errors[0]}",
        )
    fitting = [cut for e in examples for cut in cut_example(e, policy, cutoff_len)]
    longest = max(len(example.ids) for example in examples)
    if policy == "error" and longest > cutoff_len:
        num_over = sum(len(example.ids) > cutoff_len for example in examples)
        yield Check(
            "FAIL",
            "tokens",
            f"training.cutoff_policy error: {num_over} of {len(examples)} examples are longer than "
            f"training.cutoff_len {cutoff_len:,} (the longest: {longest:,} tokens)",
            "raise it, or choose another cutoff_policy",
        )
        return
    if not fitting:
        shortest = min(example.turn_ends[0] for example in examples)
        yield Check(
            "FAIL",
            "tokens",
            f"training.cutoff_len {cutoff_len:,} is below the shortest example ({shortest:,} "
            "tokens)",
            "raise it",
        )
        return
    lost = sum(len(e.turn_ends) for e in examples) - sum(len(e.turn_ends) for e in fitting)
    if lost:
        yield Check(
            "WARN",
            "tokens",
            f"{lost} turns lie beyond training.cutoff_len {cutoff_len:,} and would not be trained "
            f"(cutoff_policy {policy}; longest example: {longest:,} tokens)",
            "raise it if memory allows",
        )
    yield _check_steps(context, sample, fitting)
    with contextlib.suppress(ConfigError):  # of the DeepSpeed file or of FSDP's environment
        yield _check_memory(context, size, fitting)


def _render(renderer: RowRenderer, sample: Sample) -> tuple[list[Example], list[str]]:
    examples, errors = [], []
    for number, row in enumerate(sample.rows):
        try:
            examples += renderer.row_examples(row)
        except DataError as error:
            errors.append(f"row {number}: {error}")
    return examples, errors


def _check_steps(context: Context, sample: Sample, examples: list[Example]) -> Check:
    training = context.given.training
    if training.eval_strategy != "no" and not training.evaluates:
        return Check(
            "FAIL",
            "tokens",
            f"training.eval_strategy {training.eval_strategy}: there is nothing to evaluate on",
            "set training.val_size or training.eval_dataset",
        )
    val_size, num_rows = training.val_size, sample.num_rows
    held_out = math.ceil(val_size * num_rows) if val_size < 1 else int(val_size)
    if held_out >= num_rows:
        return Check(
            "FAIL",
            "tokens",
            f"training.val_size {val_size:g} would hold out {held_out:,} of {num_rows:,} rows",
            "lower it",
        )
    factor = (num_rows - held_out) / len(sample.rows)
    count = max(1, round(len(examples) * factor))
    tokens = round(sum(len(example.ids) for example in examples) * factor)
    trained = sum(span.end - span.start for example in examples for span in example.spans)
    global_batch = (
        training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * max(1, nproc_per_node(context.config) // training.sequence_parallel_size)
    )
    sequences, notes = count, ""
    if training.packs:
        sequences = max(1, round(factor * _num_packed(examples, training.cutoff_len)))
        notes = f" in {sequences:,} packed sequences"
    if training.stage == "dpo":
        sequences = max(1, round(factor * num_pairs(examples)))
        notes = f" in {sequences:,} pairs"
    if held_out:
        notes += f", {held_out:,} rows held out"
    per_epoch = math.ceil(sequences / global_batch)
    steps = training.max_steps
    if steps <= 0:
        steps = math.ceil(training.num_train_epochs * per_epoch)
    about = "" if sample.is_exact and factor == 1 else "about "
    share = 100 * trained / sum(len(example.ids) for example in examples)
    return Check(
        "OK",
        "tokens",
        f"{about}{count:,} examples and {tokens:,} tokens per epoch{notes} "
        f"({share:.0f} % trained); global batch {global_batch}, {per_epoch:,} steps per epoch, "
        f"{steps:,} steps in all",
    )


def _num_packed(examples: list[Example], cutoff_len: int) -> int:
    lengths = np.asarray([len(example.ids) for example in examples])
    return len(pack(np.arange(len(examples)), lengths, cutoff_len, window=len(examples)))


def _check_memory(context: Context, size: ModelSize, examples: list[Example]) -> Check:
    trained = [sum(s.end - s.start for s in example.spans) for example in examples]
    longest, longest_trained = max(len(example.ids) for example in examples), max(trained)
    if context.given.training.packs:
        total = sum(len(example.ids) for example in examples)
        longest = min(context.given.training.cutoff_len, total)
        # Of a full sequence the usual share carries loss, or what one example alone has.
        longest_trained = max(longest_trained, longest * sum(trained) // total)
    need = memory_need(context, size, longest, longest_trained)
    accelerators = visible_accelerators(context.config)
    if accelerators:
        available = min(accelerator.memory_bytes for accelerator in accelerators)
        where = "smallest accelerator"
    else:
        ranks = nproc_per_node(context.config)
        available = memory().available_bytes // ranks
        where = f"main memory for each of {ranks} ranks"
    text = (
        f"about {need.total / _GIB:.2f} GiB per rank (weights {need.weights / _GIB:.2f}, gradients "
        f"{need.gradients / _GIB:.2f}, optimizer {need.optimizer / _GIB:.2f}, activations about "
        f"{need.activations / _GIB:.2f}) of {available / _GIB:.1f} GiB ({where})"
    )
    if need.fixed > available:
        return Check(
            "FAIL",
            "memory",
            text,
            "weights, gradients and optimizer alone do not fit: use ZeRO-3 or fsdp on more GPUs or "
            "offload",
        )
    if need.total > _TIGHT * available:
        return Check(
            "WARN",
            "memory",
            text,
            "lower cutoff_len or per_device_train_batch_size, or offload (DeepSpeed file, or fsdp)",
        )
    return Check("OK", "memory", text)
