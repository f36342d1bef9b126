"""STEP 2: config.yaml -> training YAML -> trainer processes -> results.

The training YAML speaks LLaMA-Factory's dialect and holds every resolved value, so that the native
engine and LLaMA-Factory itself execute the same file, and the record says what ran.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline import __version__
from pipeline.builtin import builtin_path, ensure_builtin, is_builtin
from pipeline.config.load import LoadedConfig
from pipeline.config.schema import Config, Input
from pipeline.config.secrets import resolve_secret
from pipeline.config.shipped import resolve_shipped
from pipeline.errors import ConfigError, InterruptedRun, TrainError
from pipeline.launch.auto_strategy import choose_deepspeed
from pipeline.launch.diagnosis import diagnose
from pipeline.launch.machine import Accelerator, accelerators, cpu_count
from pipeline.launch.signals import StopRequests
from pipeline.launch.supervise import run_supervised
from pipeline.launch.torchrun import (
    build_environment,
    build_llamafactory_argv,
    build_torchrun_argv,
    prepend_path,
)
from pipeline.paths import PROJECT_ROOT, SHIPPED, RunPaths, from_root
from pipeline.progress import show_progress
from pipeline.trainer.args import NATIVE_KEYS, TrainArgs
from pipeline.trainer.data.dataset import find_datasets
from pipeline.trainer.keys.finetuning import split_names
from pipeline.trainer.keys.strategy import AUTO
from pipeline.trainer.llamafactory_keys import DROPPED_WHEN_FALSE
from pipeline.trainer.output_dir import (
    LATEST,
    TrainerStatus,
    checkpoint_directories,
    find_resume,
)
from pipeline.trainer.parallel.groups import num_data_ranks

logger = logging.getLogger(__name__)

EXAMPLES = PROJECT_ROOT / "examples" / "job"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""`name` or `organisation/name`; anything else is a path."""
MAX_CPU_RANKS = 2
"""Ranks of `n_gpus_per_node: auto` without an accelerator: enough to be distributed."""


@dataclass(frozen=True)
class Launch:
    """Everything about the trainer processes, decided before the first one starts."""

    train_yaml: Path
    argv: list[str]
    env: dict[str, str]
    log_file: Path
    rank_logs: Path
    nproc_per_node: int


def model_path(config: Config, paths: RunPaths, *, build: bool) -> str:
    """What `from_pretrained` is given: builtin models become a directory, built if asked to.

    Raises: ConfigError: a path that is not there, which the Hub's client would take for an id.
    """
    name = config.runtime_info.input.model.model_name_or_path
    if is_builtin(name):
        make = ensure_builtin if build else builtin_path
        return str(make(name, paths.cache, EXAMPLES))
    local = from_root(name)
    if local.is_dir():
        return str(local)
    if not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"runtime_info.input.model.model_name_or_path: no such directory (got {local}); give "
            "the directory of a model, or a Hub id such as Qwen/Qwen3-8B"
        )
    return name


def training_values(config: Config, paths: RunPaths, *, model: str) -> dict[str, Any]:
    """The keys of the training YAML; keys without a value are left to the engine's default.

    Raises: TrainError: resume_from_checkpoint names no complete checkpoint.
    """
    given = config.runtime_info.input
    values: dict[str, Any] = given.training.model_dump(mode="json", exclude_none=True)
    values.update(
        model_name_or_path=model,
        model_revision=given.model.model_revision,
        trust_remote_code=given.model.trust_remote_code,
        do_train=True,
        dataset_dir=str(paths.dataset_dir),
        dataset=",".join([paths.dataset_name, *given.dataset.mixed_with]),
        output_dir=str(paths.output_dir),
        run_name=paths.run_name,
    )
    if values.get("tokenized_path"):
        values["tokenized_path"] = str(from_root(values["tokenized_path"]))
    for key in ("adapter_name_or_path", "ref_model"):
        if values.get(key):
            values[key] = _absolute(values[key])
    if values.get("template") == "auto":
        del values["template"]  # in both engines: the model's own
    if not values.get("fsdp"):
        values.pop("fsdp_config", None)
    if given.infrastructure.engine == "llamafactory":
        values = {key: value for key, value in values.items() if _llamafactory_takes(key, value)}
    elif given.training.deepspeed is None:
        values["deepspeed"] = None  # not the engine's default
    if values.get("deepspeed") not in (None, AUTO):
        values["deepspeed"] = str(resolve_shipped(str(values["deepspeed"]))[0])
    trackers = trackers_of(given)
    if trackers:
        values["report_to"] = trackers if len(trackers) > 1 else trackers[0]
    resume = values.get("resume_from_checkpoint")
    if resume:
        native = given.infrastructure.engine == "native"
        found = resume_directory(paths.output_dir, resume, native=native)
        # The native engine reads a checkpoint whole before it trusts it: `latest` may be another.
        values["resume_from_checkpoint"] = LATEST if native and resume == LATEST else str(found)
    return values


def trackers_of(given: Input) -> list[str]:
    """Those of `training.report_to`, and wandb unless `experiment.wandb_mode` disables it."""
    asked = given.training.report_to or []
    names = [name for name in ([asked] if isinstance(asked, str) else asked) if name != "none"]
    if given.experiment.wandb_mode != "disabled" and "wandb" not in names:
        names.append("wandb")
    return names


def _absolute(names: str) -> str:
    """Directories become absolute; what is none is left as an id of the Hub."""
    places = [(name, from_root(name)) for name in split_names(names)]
    return ",".join(str(place) if place.is_dir() else name for name, place in places)


def _llamafactory_takes(key: str, value: Any) -> bool:
    return key not in NATIVE_KEYS and not (key in DROPPED_WHEN_FALSE and value is False)


def tokenize(values: dict[str, Any]) -> Path:
    """Make the token store of the native engine, before any rank is started.

    Returns: its directory, which belongs into the training YAML: the ranks then train on the data
        as it is now, even if another run replaces the file meanwhile.
    Raises: DataError, TrainError: as `open_or_build`.
    """
    from pipeline.trainer.data.build import open_or_build

    with show_progress("step 2: tokenise", "rows") as progress:
        report = open_or_build(TrainArgs.model_validate(values), progress)
    for line in report.cutoff_lines():
        logger.info("step 2: %s", line)
    return report.store.directory


def decided(config: Config, values: dict[str, Any]) -> dict[str, Any]:
    """The same keys with `deepspeed: auto` replaced by what this machine has the memory for.

    The tokens are there. Raises: ConfigError: no strategy can run this training.
    """
    if values.get("deepspeed") != AUTO:
        return values
    from pipeline.trainer.data.store import open_store
    from pipeline.trainer.planned_run import PlannedRun

    args = TrainArgs.model_validate(values)
    ranks = nproc_per_node(config)
    data_ranks = num_data_ranks(ranks, args.sequence_parallel_size)
    run = PlannedRun.of(args, open_store(args), data_ranks)
    choice = choose_deepspeed(run, ranks, visible_accelerators(config))
    logger.log(
        logging.INFO if choice.fits else logging.WARNING,
        "step 2: deepspeed auto: %s",
        choice.describe(),
    )
    return {**values, "deepspeed": choice.chosen.deepspeed}


def dataset_files(values: dict[str, Any]) -> list[Path]:
    """The local files of all datasets that the training YAML names."""
    names = ",".join(filter(None, [values["dataset"], values.get("eval_dataset")]))
    datasets = find_datasets(Path(values["dataset_dir"]), names)
    return [dataset.file for dataset in datasets if dataset.file is not None]


def resume_directory(output_dir: Path, resume_from_checkpoint: str, *, native: bool) -> Path:
    """The checkpoint to continue from. Only those of the native engine tell whether they are whole.

    Raises: TrainError: there is none, or it is not complete.
    """
    is_latest = resume_from_checkpoint == LATEST
    asked = LATEST if is_latest else str(from_root(resume_from_checkpoint))
    if native:
        checkpoint = find_resume(output_dir, asked)
        assert checkpoint is not None, "None is for no request"
        return checkpoint.directory
    found = checkpoint_directories(output_dir) if is_latest else [Path(asked)]
    if not found or not (found[-1] / "trainer_state.json").is_file():
        raise TrainError(
            f"training.resume_from_checkpoint: no checkpoint with a trainer_state.json (got "
            f"{found[-1] if found else output_dir}); remove the key to start from the beginning"
        )
    return found[-1]


def render_train_yaml(values: dict[str, Any], source: Path) -> str:
    """The text of the training YAML, grouped as in LLaMA-Factory's own examples."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SHIPPED),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = _yaml_inline
    template = environment.get_template("train.yaml.j2")
    return template.render(values=values, source=source, version=__version__)


def _yaml_inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def nproc_per_node(config: Config) -> int:
    """Ranks to start: as configured, or one per visible accelerator, or a few on the CPU."""
    configured = config.runtime_info.input.infrastructure.n_gpus_per_node
    if configured != "auto":
        return configured
    return len(visible_accelerators(config)) or min(MAX_CPU_RANKS, cpu_count())


def visible_accelerators(config: Config) -> list[Accelerator]:
    """The accelerators that the trainer will use."""
    return [] if config.runtime_info.input.training.use_cpu else accelerators()


def plan_launch(config: Config, paths: RunPaths, run_id: str) -> Launch:
    """Command, environment and log files of the trainer."""
    given = config.runtime_info.input
    nproc = nproc_per_node(config)
    rank_logs = paths.logs / "ranks" / f"{paths.run_name}-{run_id}"
    secrets = {
        "HF_TOKEN": resolve_secret(given.credentials.hf_token, "credentials.hf_token"),
        "WANDB_API_KEY": resolve_secret(
            given.credentials.wandb_api_key, "credentials.wandb_api_key"
        ),
    }
    extra = {name: value for name, value in secrets.items() if value}
    extra |= {"WANDB_MODE": given.experiment.wandb_mode, "WANDB_DIR": str(paths.artifacts)}
    if given.experiment.wandb_run_id:
        extra |= {"WANDB_RUN_ID": given.experiment.wandb_run_id, "WANDB_RESUME": "allow"}
    if given.infrastructure.engine == "llamafactory":
        python = from_root(given.infrastructure.llamafactory_python)
        argv = build_llamafactory_argv(python, paths.train_yaml)
        extra["PATH"] = prepend_path(python.parent)
    else:
        argv = build_torchrun_argv(nproc, paths.train_yaml, rank_logs)
        source_path = os.environ.get("PYTHONPATH")
        extra["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT_ROOT), source_path]))
    return Launch(
        train_yaml=paths.train_yaml,
        argv=argv,
        env=build_environment(
            nproc,
            num_cpus=cpu_count(),
            uses_accelerator=bool(visible_accelerators(config)),
            extra=extra,
        ),
        log_file=paths.logs / f"{paths.run_name}-{run_id}.log",
        rank_logs=rank_logs,
        nproc_per_node=nproc,
    )


def train(
    loaded: LoadedConfig, paths: RunPaths, launch: Launch, run_id: str, stop: StopRequests
) -> None:
    """Run the trainer to its end.

    Raises:
        InterruptedRun: a signal stopped it; `saved` tells whether it can be continued.
        ConfigError, DataError, TrainError: what the first rank that failed raised.
        LaunchError: it failed in another way.
    """
    grace = loaded.config.runtime_info.input.infrastructure.stop_grace_seconds
    launch.log_file.parent.mkdir(parents=True, exist_ok=True)
    launch.rank_logs.mkdir(parents=True, exist_ok=True)
    earlier = TrainerStatus.read(paths.output_dir)
    outcome = run_supervised(
        launch.argv,
        env=launch.env,
        log_file=launch.log_file,
        run_id=run_id,
        grace_seconds=grace,
        echo=True,
        stop=stop,
    )
    status = TrainerStatus.read(paths.output_dir).since(earlier)
    if outcome.signal_received and status.get("status") != "completed":
        saved = status.get("status") == "interrupted"
        where = f"checkpoint-{status['step']} is saved" if saved else "nothing was saved"
        raise InterruptedRun(f"{outcome.signal_received}: training stopped, {where}", saved=saved)
    if status.get("status") == "interrupted" and outcome.returncode == 0:
        raise InterruptedRun(
            f"{status.get('signal')}: training stopped, checkpoint-{status['step']} is saved",
            saved=True,
        )
    if outcome.returncode != 0:
        raise diagnose(outcome, launch.rank_logs, launch.log_file)
