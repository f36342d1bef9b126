"""One trial -> the bytes that STEP 0 writes for it. Runs in a worker process; writes nothing."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.conversion.eval_leaks import EvalLeaks
from pipeline.conversion.example import (
    count_tokens,
    example_of,
    layout_fingerprint,
    tokens_fingerprint,
)
from pipeline.conversion.raw_files import DiskFiles, files_below, read_head
from pipeline.conversion.trials import Trial
from pipeline.jsonl import encode_json, escape_surrogates
from pipeline.quality.cleaning import Cleaner, Cleaning
from pipeline.quality.duplicates import exact_key, prompt_key, signature
from pipeline.quality.facts import facts_of
from pipeline.quality.leaks.repository_names import repository_of
from pipeline.quality.rule_score.outcome import SCORES, score_fields
from pipeline.quality.turn_weights import TurnWeights, apply_turn_weights
from pipeline.rejects import Defect, Reject, RejectReason
from pipeline.scaffolds import SCAFFOLDS, detect
from pipeline.scaffolds.parsed import Conversation, Parsed
from pipeline.scaffolds.unusable import describe
from pipeline.sharegpt import score_column
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trajectory import Provenance, Trajectory, to_record

AUTO = "auto"
_NUM_FILES_SHOWN = 3


@dataclass(slots=True)
class ConvertedRow:
    """One conversation, as it is written and as it is chosen by."""

    chain: str
    im_line: bytes
    """The IM record as JSON, without a line break."""
    lf_row: bytes
    """The example as JSON."""
    facts: dict[str, Any]
    """What filters and statistics ask for; see `quality.facts`."""
    exact_key: bytes = b""
    prompt_key: bytes = b""
    signature: bytes = b""
    """This, `exact_key` and `prompt_key` as in `quality.duplicates`."""


@dataclass(slots=True)
class ConvertedTrial:
    """Everything about one trial that goes into the outputs, but its rows."""

    trial: str
    scaffold: str = ""
    rejects: list[Reject] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    secrets: Counter[str] = field(default_factory=Counter)
    """Secrets found in its conversations, by type."""
    source_file: str = ""
    """The main file, relative to the source."""
    source_sha256: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every raw file that was read whole, by its name relative to the source."""


@dataclass(frozen=True)
class TrialOptions:
    """How every trial of a run is converted."""

    scaffold: str = "auto"
    """A key of SCAFFOLDS, or "auto"."""
    cleaning: Cleaning = Cleaning()
    turn_weights: TurnWeights = TurnWeights()
    leaks: EvalLeaks = EvalLeaks()
    writes_scores: bool = True
    """Whether IM records carry the rule score."""
    counted_by: TokenizerSource | None = None
    """Whose tokens are counted. None: they are not."""
    signs: bool = False
    """Whether near-duplicates will be looked for."""
    rendered_by: TokenizerSource | None = None
    """Whose chat template renders the examples. None: they are structured."""

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that differs when the outcome may."""
        return {
            "scaffold": self.scaffold,
            "secrets": self.cleaning.secrets.fingerprint(),
            "identity": asdict(self.cleaning.identity),
            "turn_weights": asdict(self.turn_weights),
            **self.leaks.fingerprint(),
            "scores": self.writes_scores,
            "signs": self.signs,
            "tokens": tokens_fingerprint(self.counted_by),
            "lf_format": layout_fingerprint(self.rendered_by),
        }


def convert_trial(
    trial: Trial, options: TrialOptions, take: Callable[[ConvertedRow], None]
) -> ConvertedTrial:
    """Read one trial's trajectory. A bad one is rejected, with reasons; only bugs raise.

    `take` is given each row as soon as it is made: one file may hold more than memory does.

    No row means at least one reject.
    """
    try:
        return _convert(trial, options, take)
    except Exception as error:
        error.add_note(f"while converting {trial.raw_dir}")
        raise


def _convert(
    trial: Trial, options: TrialOptions, take: Callable[[ConvertedRow], None]
) -> ConvertedTrial:
    converted = ConvertedTrial(trial.name, trial.scaffold or options.scaffold)
    if converted.scaffold == AUTO:
        try:
            found = detect(
                trial.agent_name, trial.raw_names, lambda name: read_head(trial.raw_dir / name)
            )
            if found is None:
                converted.rejects.append(_not_recognised(trial))
                return converted
        except OSError as error:
            converted.rejects.append(_unreadable(trial, error))
            return converted
        converted.scaffold = found
    scaffold = SCAFFOLDS[converted.scaffold]
    main = trial.main or scaffold.main_file(trial.raw_names)
    if main is None:
        message = f"no agent/{scaffold.in_trial[0]}, which {converted.scaffold} needs"
        converted.rejects.append(Reject(trial.name, RejectReason.MISSING_TRAJECTORY, message))
        return converted
    converted.source_file = trial.source_file(main)
    files = DiskFiles(trial.raw_dir, main, trial.raw_names)
    cleaner = Cleaner(options.cleaning)
    try:
        parsed = scaffold.parse(files)
        converted.source_sha256 = files.main_hash()
    except OSError as error:
        converted.rejects.append(_unreadable(trial, error))
        return converted
    converted.counts = parsed.counts
    for conversation in _readable(parsed, trial, converted):
        trajectory = _trajectory(conversation, trial, converted)
        row = _row(trajectory, converted.counts, cleaner, options)
        if isinstance(row, ConvertedRow):
            take(row)
            continue
        reject = Reject(
            trial=trial.name,
            reason=row.reason,
            message=row.message,
            source_file=converted.source_file,
            chain=conversation.chain_id,
        )
        converted.rejects.append(reject)
    converted.rejects[:0] = [
        Reject(
            trial=trial.name,
            reason=reject.reason,
            message=cleaner.clean_message(reject.message),
            source_file=converted.source_file,
            chain=reject.chain_id,
            line=reject.line,
        )
        for reject in parsed.rejects
    ]
    # Some counts are named after what stands in the log.
    converted.counts = Counter({escape_surrogates(k): n for k, n in parsed.counts.items()})
    unread = [n for n in trial.raw_names if scaffold.is_main_name(n) and n not in files.hashes]
    converted.counts.update({"unread_trajectories": len(unread)} if unread else {})
    converted.secrets = cleaner.secrets
    converted.hashes = {trial.source_file(name): sha for name, sha in files.hashes.items()}
    return converted


def _readable(parsed: Parsed, trial: Trial, converted: ConvertedTrial) -> Iterator[Conversation]:
    """The conversations up to where the file cannot be read any further."""
    conversations = itertools.chain(parsed.conversations, parsed.more)
    while True:
        try:
            conversation = next(conversations, None)
        except OSError as error:
            converted.rejects.append(_unreadable(trial, error))
            return
        if conversation is None:
            return
        yield conversation


def _not_recognised(trial: Trial) -> Reject:
    """Why no scaffold reads a trial: what its file is, or what there is instead of one.

    Raises: OSError.
    """
    if trial.raw_names:
        name = trial.raw_names[0]
        why = describe(read_head(trial.raw_dir / name))
        return Reject(
            trial.name, why.reason, f"agent/{name}: {why.message}", trial.source_file(name)
        )
    others = files_below(trial.raw_dir)
    shown = ", ".join(others[:_NUM_FILES_SHOWN]) + (" ..." if others[_NUM_FILES_SHOWN:] else "")
    what = f"agent/ holds no trajectory, only {shown}" if others else "agent/ holds no file"
    return Reject(trial.name, RejectReason.MISSING_TRAJECTORY, what)


def _unreadable(trial: Trial, error: OSError) -> Reject:
    message = f"{error.filename or trial.raw_dir}: {error.strerror}"
    return Reject(trial.name, RejectReason.UNREADABLE_FILE, message)


def _row(
    trajectory: Trajectory, counts: Counter[str], cleaner: Cleaner, options: TrialOptions
) -> ConvertedRow | Defect:
    """The row to write, or why there is none."""
    source = trajectory.provenance
    defect = options.leaks.find_task(source.instance_id, source.repository)
    if defect := defect or options.leaks.find_text(trajectory):
        return defect
    trajectory = _weigh(trajectory, counts, options.turn_weights)
    allowed = options.leaks.apply_history_policy(trajectory)
    if isinstance(allowed, Defect):
        return allowed
    trajectory, num_lookups = allowed
    counts.update({"solution_lookups": num_lookups} if num_lookups else {})
    if not any(message.role == "assistant" and message.weight for message in trajectory.messages):
        what = "conversion.turn_weights and eval_leaks.git_history leave no turn to train"
        return Defect(RejectReason.NOTHING_TO_TRAIN, what)
    cleaned = cleaner.clean(trajectory)
    if isinstance(cleaned, Defect):
        return cleaned
    # A subagent's task is not the trial's, which is what the scores judge.
    is_scored = cleaned.provenance.agent_type != "subagent"
    example = example_of(cleaned, options.rendered_by)
    if isinstance(example, Defect):
        return example
    counts.update(example.deviations)
    scores = score_fields(cleaned) if is_scored else {}
    record = to_record(cleaned)
    if options.writes_scores:
        record["meta_info"]["unique_info"] |= scores or dict.fromkeys(SCORES)
    try:
        return ConvertedRow(
            chain=cleaned.provenance.chain_id,
            im_line=encode_json(record),
            lf_row=encode_json(example.row | score_column(record["meta_info"]["unique_info"])),
            facts=facts_of(cleaned, scores, count_tokens(cleaned, options.counted_by)),
            exact_key=exact_key(cleaned.messages),
            prompt_key=prompt_key(cleaned),
            signature=signature(cleaned.messages) if options.signs else b"",
        )
    except UnicodeEncodeError:  # the messages were checked, the rest of the log was not
        message = "model name, ids or usage: not valid Unicode"
        return Defect(RejectReason.LONE_SURROGATE, message)


def _weigh(trajectory: Trajectory, counts: Counter[str], weights: TurnWeights) -> Trajectory:
    messages, troubles = apply_turn_weights(trajectory.messages, weights, trajectory.tools)
    counts.update({f"{trouble}_turns": count for trouble, count in troubles.items()})
    return replace(trajectory, messages=messages)


def _trajectory(conversation: Conversation, trial: Trial, converted: ConvertedTrial) -> Trajectory:
    instance_id = conversation.instance_id or trial.instance_id
    source = Provenance(
        source=trial.source,
        instance_id=instance_id,
        trial_id=trial.name,
        chain_id=conversation.chain_id,
        agent_type=conversation.agent_type,
        parent_chain=conversation.parent_chain,
        parent_call=conversation.parent_call,
        continues=conversation.continues,
        segment=conversation.segment,
        scaffold=converted.scaffold,
        model=conversation.model or trial.model_name,
        source_file=converted.source_file,
        source_sha256=converted.source_sha256,
        repository=trial.repository or repository_of(instance_id) or "",
        rewards=dict(trial.rewards),
        tests=dict(trial.tests),
        cost_usd=trial.cost_usd,
        reward=trial.reward if conversation.reward is None else conversation.reward,
        exception=conversation.exception or trial.exception,
        generated_on=conversation.generated_on,
        gen_params=conversation.gen_params,
        usage=conversation.usage,
    )
    return Trajectory(conversation.messages, conversation.tools, source)
