"""`source` and `conversion` of config.yaml, as STEP 0 takes them: lists read, secrets resolved."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.conversion_schema import Conversion
from pipeline.config.document import Document
from pipeline.config.overrides import INPUT, Override, apply_override, read_override
from pipeline.config.problems import KeyPath
from pipeline.config.schema import Config
from pipeline.config.secrets import resolve_secret
from pipeline.config.shipped import resolve_shipped
from pipeline.config.strict import StrictModel
from pipeline.config.validate import validate
from pipeline.conversion.eval_leaks import EvalLeaks
from pipeline.conversion.filters import Caps, Duplicates, Filters, Limits
from pipeline.conversion.lists import read_list
from pipeline.conversion.pairing import PairRules
from pipeline.conversion.selection import SelectionRules
from pipeline.conversion.source import (
    HarborJob,
    RawFileTree,
    Source,
    SourceSet,
    WeightedSource,
    source_at,
)
from pipeline.conversion.trial import TrialOptions
from pipeline.errors import ConfigError
from pipeline.paths import from_root
from pipeline.quality.cleaning import Cleaning
from pipeline.quality.identity import IdentityOptions
from pipeline.quality.leaks.instance_ids import parse_instance_ids
from pipeline.quality.leaks.overlap import parse_problems
from pipeline.quality.leaks.repo_filter import parse_repos
from pipeline.quality.secrets.scrub import SecretOptions, parse_allow_list
from pipeline.quality.turn_weights import TurnWeights
from pipeline.quality.where import parse_where
from pipeline.sharegpt import LfFormat
from pipeline.step0_convert import ConvertOptions
from pipeline.trainer.data.tokenize import TokenizerSource

_Item = TypeVar("_Item")


def raw_source(config: Config) -> Source | None:
    """What STEP 0 converts; None: the examples are ready-made."""
    given = config.runtime_info.input
    source, reward = given.source, given.conversion.reward_name
    if source.type == "harbor_job":
        return HarborJob(from_root(source.job_dir), reward)
    if source.type == "files":
        return RawFileTree(from_root(source.path))
    if source.type == "several":
        return SourceSet.of(
            WeightedSource(
                source_at(from_root(item.path), reward), item.name, item.scaffold, item.weight
            )
            for item in source.sources
        )
    return None


def convert_options(config: Config, find_model: Callable[[], str]) -> ConvertOptions:
    """The options of a config.

    Args:
        find_model: where the model is; asked only if its tokenizer is needed.
    Raises: DataError: a list that it names cannot be read. ConfigError: there is no such model.
    """
    given = config.runtime_info.input
    tokenizer = None
    if _needs_tokenizer(given.conversion):
        model = given.model
        tokenizer = TokenizerSource(find_model(), model.model_revision, model.trust_remote_code)
    return options_of(given.conversion, given.source.scaffold, tokenizer=tokenizer)


def lf_format_of(conversion: Conversion) -> LfFormat:
    """Of the examples that STEP 0 writes."""
    return "pairs" if conversion.pairs else conversion.lf_format


def conversion_of(settings: Sequence[str]) -> Conversion:
    """The section `conversion` with its defaults and these `key=value` on top.

    Raises: ConfigError: not such a key, or not such a value.
    """
    overrides: list[Override] = []
    data: dict[str, Any] = {"conversion": {"data_name": "data"}}
    for text in settings:
        if "=" not in text:
            raise ConfigError(f"--set {text!r}: must be KEY=VALUE, such as min_turns=5")
        override = read_override(f"conversion.{text}")
        override = replace(override, path=override.path[len(INPUT) :])
        overrides.append(override)
        data = apply_override(data, override)

    def origin(path: KeyPath) -> str | None:
        override = next((o for o in reversed(overrides) if o.path[: len(path)] == path), None)
        return override and f"--set {override.text.removeprefix('conversion.')}"

    document = Document.parse(b"", "the options")
    return validate(document, _Section, data, override_at=origin).conversion


class _Section(StrictModel):
    conversion: Conversion


def options_of(
    conversion: Conversion,
    scaffold: str,
    locate: Callable[[str], Path] = from_root,
    tokenizer: TokenizerSource | None = None,
) -> ConvertOptions:
    """The options of the section `conversion`.

    Args:
        locate: a relative path of it -> where the file is.
        tokenizer: of the model, if examples are to be rendered or tokens to be counted.
    Raises: DataError: a list that it names cannot be read. ConfigError: there is no tokenizer.
    """
    if _needs_tokenizer(conversion) and tokenizer is None:
        raise ConfigError(
            "lf_format rendered, max_tokens, count_tokens, and tokens in where need the tokenizer "
            "of a model; add --model"
        )
    return ConvertOptions(
        selection=SelectionRules(
            instance_status=conversion.instance_status,
            resolved_at=conversion.resolved_at,
            exclude_exceptions=tuple(conversion.exclude_exceptions),
            max_instances=conversion.max_instances,
            seed=conversion.seed,
        ),
        trial=TrialOptions(
            scaffold=scaffold,
            cleaning=_cleaning(conversion, locate),
            turn_weights=TurnWeights(**conversion.turn_weights.model_dump()),
            leaks=_leaks(conversion, locate),
            writes_scores=conversion.scores,
            signs=conversion.duplicates.near_threshold is not None,
            rendered_by=tokenizer if conversion.lf_format == "rendered" else None,
            counted_by=tokenizer if _counts_tokens(conversion) else None,
        ),
        filters=Filters(
            Limits(
                chains=conversion.chains,
                min_score=conversion.min_score,
                min_turns=conversion.min_turns,
                max_turns=conversion.max_turns,
                max_tokens=conversion.max_tokens,
                max_tool_error_share=conversion.max_tool_error_share,
                where=parse_where(conversion.where) if conversion.where else None,
            ),
            Duplicates(**conversion.duplicates.model_dump()),
            Caps(conversion.max_per_instance, conversion.max_per_repository),
        ),
        pairs=PairRules(**conversion.pairs.model_dump()) if conversion.pairs else None,
        max_reject_fraction=conversion.max_reject_fraction,
        num_workers=conversion.num_workers,
    )


def _needs_tokenizer(conversion: Conversion) -> bool:
    return conversion.lf_format == "rendered" or _counts_tokens(conversion)


def _counts_tokens(conversion: Conversion) -> bool:
    is_asked_for = bool(re.search(r"\btokens\b", conversion.where))
    return conversion.count_tokens or conversion.max_tokens is not None or is_asked_for


def _leaks(conversion: Conversion, locate: Callable[[str], Path]) -> EvalLeaks:
    given = conversion.eval_leaks

    def items(
        file: str, key: str, parse: Callable[[str, str], Iterable[_Item]]
    ) -> tuple[_Item, ...]:
        return read_list(locate(file), f"eval_leaks.{key}", parse) if file else ()

    repos: tuple[str, ...] = ()
    if conversion.exclude_repos_file:
        file = locate(conversion.exclude_repos_file)
        shipped = resolve_shipped(conversion.exclude_repos_file)[0]
        found = shipped if shipped.exists() and not file.exists() else file
        repos = read_list(found, "exclude_repos_file", parse_repos)
    return EvalLeaks(
        repos=repos,
        instance_ids=frozenset(
            items(given.instance_ids_file, "instance_ids_file", parse_instance_ids)
        ),
        problems=items(given.problems_file, "problems_file", parse_problems),
        max_overlap=given.max_overlap,
        git_history=given.git_history,
    )


def _cleaning(conversion: Conversion, locate: Callable[[str], Path]) -> Cleaning:
    given = conversion.secrets
    allowed: frozenset[str] = frozenset()
    if given.allow_file:
        file = locate(given.allow_file)
        allowed = frozenset(read_list(file, "secrets.allow_file", parse_allow_list))
    key = resolve_secret(given.hash_key, "conversion.secrets.hash_key")
    options = SecretOptions(given.policy, allowed)
    if key:
        options = replace(options, key=key.encode())
    return Cleaning(options, IdentityOptions(**conversion.identity.model_dump()))
