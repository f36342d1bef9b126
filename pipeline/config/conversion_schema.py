"""The section `conversion` of config.yaml. The docstring below a field is its documentation."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from pipeline.config.secrets import SecretReference
from pipeline.config.strict import StrictModel, Text
from pipeline.preference_pairs import Continuation
from pipeline.quality.where import parse_where

_FILE_STEM = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def _file_stem(name: str) -> str:
    if not re.fullmatch(_FILE_STEM, name):
        raise ValueError(
            "must be a file stem: letters, digits, '.', '_' and '-', "
            f"the first a letter or digit (got {name!r})"
        )
    return name


class Secrets(StrictModel):
    """Tokens, passwords and private keys in trajectories."""

    policy: Literal["redact", "reject", "keep"] = "redact"
    """`redact`: replaced by placeholders, the same secret by the same; `reject`: trajectories that
    hold one are left out; `keep`: only counted."""
    allow_file: Text = ""
    """Secrets that are none, one per line: placeholders out of the data, made with the same
    `hash_key`, or SHA-256 hashes. "" or null: none."""
    hash_key: SecretReference = Field(default="", repr=False)
    """Key of the hashes in placeholders, against guesses at weak passwords. "": a public one."""


class Identity(StrictModel):
    """What trajectories tell about who made them, replaced by fixed substitutes."""

    model_names: bool = False
    """Names of models in system prompts."""
    user_names: bool = False
    """Names of users that a home path of the trajectory tells."""
    home_paths: bool = False
    """/home/NAME, /Users/NAME and the like."""
    dates: bool = False
    """The day that a prompt calls today's, wherever it occurs."""


class TurnWeights(StrictModel):
    """What the loss weight of a turn is multiplied by. Such turns stay in the context."""

    malformed_call: float = Field(default=0.0, ge=0)
    """A call of an unknown tool, or with arguments that the client could not read."""
    failed_call: float = Field(default=0.0, ge=0)
    """All calls of the turn failed as tools. A command with an exit code, or a failing test, did
    not: that is an observation."""
    parse_error_reply: float = Field(default=0.0, ge=0)
    """A reply that the agent's program could not parse."""
    interrupted: float = Field(default=0.0, ge=0)
    """A turn that the user interrupted, or whose calls were never answered."""


class EvalLeaks(StrictModel):
    """What evaluations ask for, held back besides the repositories of `exclude_repos_file`."""

    instance_ids_file: Text = ""
    """Tasks to leave out, one id per line. "" or null: none."""
    problems_file: Text = ""
    """Tasks to recognise by their text: JSON lines with `instance_id` and `problem_statement`. ""
    or null: none."""
    max_overlap: float = Field(default=0.5, ge=0, lt=1)
    """The largest share of such a problem's text that a first prompt may have, in runs of 13
    words."""
    git_history: Literal["keep", "mask", "reject"] = "mask"
    """Commands that read the solution from git's history or the web (`git log --all`, the fix's
    pull request): `mask`: their turns carry no loss; `reject`: the conversation is left out;
    `keep`: they are only counted."""


class Pairs(StrictModel):
    """What the preference pairs of resolved and failed attempts at one task are made of."""

    continuation: Continuation = "trajectory"
    """A side of a pair. `trajectory`: all turns from where the two attempts part, for the native
    engine; `turn`: the first of them alone, which is all that LLaMA-Factory's format holds."""
    max_per_instance: int = Field(default=4, ge=0)
    """How many pairs of one task there are: the best resolved against the worst failed attempts,
    by reward, then score, and those of a side take turns. 0: every combination."""


class Duplicates(StrictModel):
    """Conversations that say the same, over all trials and sources."""

    drop_exact: bool = False
    """Leave out what is equal but for ids. false: only say how many."""
    near_threshold: float | None = Field(default=None, gt=0, lt=1)
    """Leave out also what is similar to at least this degree (estimated Jaccard similarity of
    turns). null: nothing."""
    keep: Literal["first", "best"] = "first"
    """Which one stays: the first by name, or the one with the highest reward, then score."""


class Conversion(StrictModel):
    """STEP 0: raw trajectories to training data."""

    data_name: Annotated[
        str,
        AfterValidator(_file_stem),
        WithJsonSchema({"type": "string", "pattern": f"^{_FILE_STEM}$"}),
    ]
    """File stem of everything STEP 0 writes, and the default dataset name."""
    instance_status: Literal["resolved", "unresolved", "all"] = "resolved"
    """Which trials are kept, by their reward. A source without any reward is taken whole."""
    reward_name: Text = ""
    """The reward that counts. "": the one named `reward`, else the only one there is."""
    resolved_at: float = 1.0
    """A trial with at least this reward is resolved."""
    exclude_exceptions: list[str] = []
    """Leave out trials that ended with one of these exceptions, whatever their reward; patterns
    such as "*Timeout*", "*" for any."""
    max_instances: int = Field(default=0, ge=0)
    """Cap on trials (hf_lf, local_lf: rows), drawn with `seed`. 0: all."""
    seed: int = Field(default=42, ge=0)
    """Seed of that draw."""
    exclude_repos_file: Text = "training_config/excluded_repos.txt"
    """Repositories whose trials are left out because evaluations use them, one `owner/name` per
    line. "" or null: none."""
    chains: Literal["all", "main"] = "all"
    """Which conversations of a trial are kept: all, or none of subagents."""
    min_turns: int = Field(default=0, ge=0)
    """Leave out conversations with fewer assistant turns."""
    max_turns: int | None = Field(default=None, ge=1)
    """Leave out conversations with more assistant turns. null: none."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Leave out conversations with more tokens, as the model's chat template renders them with
    their tools. null: none."""
    count_tokens: bool = False
    """Count tokens also without a limit, for `where` (the fact `tokens`) and statistics."""
    max_tool_error_share: float | None = Field(default=None, ge=0, le=1)
    """Leave out conversations of whose tool results a larger share are errors. null: none."""
    max_per_instance: int = Field(default=0, ge=0)
    """How many trials of one task are kept, those with the highest reward, then score. 0: all."""
    max_per_repository: int = Field(default=0, ge=0)
    """The same for one repository."""
    where: Text = ""
    """An expression that must be true of a conversation, such as `reward >= 0.5 and turns < 80`;
    the names are listed in the README. "": none."""
    turn_weights: TurnWeights = TurnWeights()
    duplicates: Duplicates = Duplicates()
    eval_leaks: EvalLeaks = EvalLeaks()
    scores: bool = True
    """Write the rule score of every trajectory into the IM data."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Leave out conversations whose composite rule score is lower. null: none."""
    secrets: Secrets = Secrets()
    identity: Identity = Identity()
    max_reject_fraction: float = Field(default=0.5, ge=0, le=1)
    """The step fails when a larger fraction of what it read is rejected."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that convert. 0: one per core."""
    lf_format: Literal["structured", "rendered"] = "structured"
    """Layout of the LLaMA-Factory JSON. `structured`: ShareGPT with tools and tool calls, for any
    model, nothing lost. `rendered`: plain turns as the chat template of `model` writes them."""

    pairs: Pairs | None = None
    """Examples are preference pairs, for training.stage dpo and rm: a resolved and a failed attempt
    that begin with the same prompt and tools. `{}`: with its defaults. null: no pairs."""

    @field_validator("pairs")
    @classmethod
    def _has_two_sides(cls, pairs: Pairs | None, info: ValidationInfo) -> Pairs | None:
        if pairs is None:
            return None
        needed = {"instance_status": "all", "lf_format": "structured", "max_per_instance": 0}
        why = {
            "instance_status": "takes resolved and failed attempts",
            "lf_format": "puts turns on each side",
            "max_per_instance": "needs the worse attempts, too (see pairs.max_per_instance)",
        }
        for key, value in needed.items():
            if info.data.get(key, value) != value:
                raise ValueError(f"{why[key]}; set conversion.{key}: {value}")
        return pairs

    @field_validator("where")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        if value:
            parse_where(value)
        return value
