"""One trial -> the bytes that STEP 0 writes for it. Runs in a worker process; writes nothing."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.conversion.harbor import Trial
from pipeline.jsonl import encode_json
from pipeline.rejects import Reject, RejectReason
from pipeline.scaffolds import SCAFFOLDS, detect
from pipeline.scaffolds.parsed import Conversation, Parsed
from pipeline.sharegpt import to_sharegpt
from pipeline.trajectory import Provenance, Trajectory, to_record

AUTO = "auto"
_TOOL_ERROR_MARK = "<tool_use_error>"


@dataclass(slots=True)
class ConversationStats:
    """What `<data>.stats.json` counts about one conversation."""

    scaffold: str
    num_turns: int
    """Assistant turns."""
    num_tool_calls: int
    num_tool_errors: int
    """Results that the client flagged as errors."""


@dataclass(slots=True)
class ConvertedTrial:
    """Everything about one trial that goes into the outputs."""

    trial: str
    scaffold: str = ""
    im_lines: list[bytes] = field(default_factory=list)
    """IM records as JSON, without line breaks."""
    lf_rows: list[bytes] = field(default_factory=list)
    """ShareGPT examples as JSON, one for each IM record."""
    rejects: list[Reject] = field(default_factory=list)
    stats: list[ConversationStats] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    source_file: str = ""
    source_sha256: str = ""


def convert_trial(trial: Trial, scaffold_name: str) -> ConvertedTrial:
    """Read one trial's trajectory. A bad one is rejected, with reasons; only bugs raise.

    `scaffold_name`: a key of SCAFFOLDS, or "auto". No conversation means at least one reject.
    """
    try:
        return _convert(trial, scaffold_name)
    except OSError as error:
        message = f"{error.filename or trial.directory}: {error.strerror}"
        reject = Reject(trial.name, RejectReason.UNREADABLE_FILE, message)
        return ConvertedTrial(trial.name, rejects=[reject])
    except Exception as error:
        error.add_note(f"while converting {trial.directory}")
        raise


def agent_files(trial_directory: Path) -> list[Path]:
    """The raw files that a scaffold may read, sorted by name."""
    directory = trial_directory / "agent"
    known = {scaffold.file_name for scaffold in SCAFFOLDS.values()}
    return sorted(
        path
        for path in (directory.iterdir() if directory.is_dir() else ())
        if path.is_file() and (path.name in known or path.match("trajectory.*.json"))
    )


def _convert(trial: Trial, scaffold_name: str) -> ConvertedTrial:
    converted = ConvertedTrial(trial.name)
    files = {path.name: path for path in agent_files(trial.directory)}
    if scaffold_name == AUTO:
        found = detect(trial.agent_name, list(files), lambda name: _lines(files[name]))
        if found is None:
            what = f"agent/ holds {', '.join(files)}" if files else "agent/ holds no trajectory"
            reason = RejectReason.UNKNOWN_SCAFFOLD if files else RejectReason.MISSING_TRAJECTORY
            message = f"{what}; set source.scaffold if you know what wrote it"
            converted.rejects.append(Reject(trial.name, reason, message))
            return converted
        scaffold_name = found
    converted.scaffold = scaffold_name
    scaffold = SCAFFOLDS[scaffold_name]
    path = files.pop(scaffold.file_name, None)
    if path is None:
        message = f"no agent/{scaffold.file_name}, which {scaffold_name} needs"
        converted.rejects.append(Reject(trial.name, RejectReason.MISSING_TRAJECTORY, message))
        return converted
    converted.source_file = f"{trial.name}/agent/{scaffold.file_name}"
    digest = hashlib.sha256()
    parsed = scaffold.parse(_hashed(_lines(path), digest), list(files))
    converted.source_sha256 = digest.hexdigest()
    _fill(converted, trial, parsed)
    return converted


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _hashed(lines: Iterator[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for line in lines:
        digest.update(line)
        yield line


def _fill(converted: ConvertedTrial, trial: Trial, parsed: Parsed) -> None:
    converted.counts = parsed.counts
    converted.rejects = [
        Reject(
            trial=trial.name,
            reason=reject.reason,
            message=reject.message,
            source_file=converted.source_file,
            chain=reject.chain_id,
            line=reject.line,
        )
        for reject in parsed.rejects
    ]
    for conversation in parsed.conversations:
        trajectory = _trajectory(conversation, trial, converted)
        try:
            im_line, lf_row = (
                encode_json(to_record(trajectory)),
                encode_json(to_sharegpt(trajectory)),
            )
        except UnicodeEncodeError:  # the messages were checked, the rest of the log was not
            reject = Reject(
                trial=trial.name,
                reason=RejectReason.LONE_SURROGATE,
                message="model name, ids or usage: not valid Unicode",
                source_file=converted.source_file,
                chain=conversation.chain_id,
            )
            converted.rejects.append(reject)
            continue
        converted.im_lines.append(im_line)
        converted.lf_rows.append(lf_row)
        converted.stats.append(_stats(conversation, converted.scaffold))


def _trajectory(conversation: Conversation, trial: Trial, converted: ConvertedTrial) -> Trajectory:
    source = Provenance(
        instance_id=trial.instance_id,
        trial_id=trial.name,
        chain_id=conversation.chain_id,
        scaffold=converted.scaffold,
        model=conversation.model or trial.model_name,
        source_file=converted.source_file,
        source_sha256=converted.source_sha256,
        reward=trial.reward,
        exception=trial.exception,
        generated_on=conversation.generated_on,
        gen_params=conversation.gen_params,
        usage=conversation.usage,
    )
    return Trajectory(conversation.messages, conversation.tools, source)


def _stats(conversation: Conversation, scaffold: str) -> ConversationStats:
    messages = conversation.messages
    return ConversationStats(
        scaffold=scaffold,
        num_turns=sum(message.role == "assistant" for message in messages),
        num_tool_calls=sum(len(message.tool_calls) for message in messages),
        num_tool_errors=sum(
            message.is_error or message.content.startswith(_TOOL_ERROR_MARK)
            for message in messages
            if message.role == "tool"
        ),
    )
