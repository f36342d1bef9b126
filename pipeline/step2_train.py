"""STEP 2: config.yaml -> training YAML -> trainer processes -> results.

The training YAML speaks LLaMA-Factory's dialect and holds every resolved value, so that the native
engine and LLaMA-Factory itself execute the same file, and the record says what ran.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline import __version__
from pipeline.builtin import builtin_path, ensure_builtin, is_builtin
from pipeline.config.load import LoadedConfig
from pipeline.config.schema import Config
from pipeline.config.secrets import resolve_secret
from pipeline.config.shipped import resolve_shipped
from pipeline.errors import InterruptedRun, LaunchError
from pipeline.launch.machine import Accelerator, accelerators, cpu_count
from pipeline.launch.signals import StopRequests
from pipeline.launch.supervise import Outcome, run_supervised
from pipeline.launch.torchrun import (
    build_environment,
    build_llamafactory_argv,
    build_torchrun_argv,
    prepend_path,
)
from pipeline.paths import PROJECT_ROOT, SHIPPED, RunPaths, from_root
from pipeline.trainer.output_dir import STATUS_FILE, find_resume

logger = logging.getLogger(__name__)

EXAMPLES = PROJECT_ROOT / "examples" / "job"
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
    """What `from_pretrained` is given: builtin models become a directory, built if asked to."""
    name = config.runtime_info.input.model.model_name_or_path
    if is_builtin(name):
        make = ensure_builtin if build else builtin_path
        return str(make(name, paths.cache, EXAMPLES))
    local = from_root(name)
    return str(local) if local.is_dir() else name


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
        dataset=paths.dataset_name,
        output_dir=str(paths.output_dir),
        run_name=paths.run_name,
    )
    if values.get("template") == "auto":
        del values["template"]  # in both engines: the model's own
    if "deepspeed" in values:
        values["deepspeed"] = str(resolve_shipped(values["deepspeed"])[0])
    if given.experiment.wandb_mode != "disabled":
        values["report_to"] = "wandb"
    resume = values.get("resume_from_checkpoint")
    if resume:
        resume = resume if resume == "latest" else str(from_root(resume))
        checkpoint = find_resume(paths.output_dir, resume)
        assert checkpoint is not None
        values["resume_from_checkpoint"] = str(checkpoint.directory)
    return values


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
        LaunchError: it failed; the message is the one of the first rank that did.
    """
    grace = loaded.config.runtime_info.input.infrastructure.stop_grace_seconds
    launch.log_file.parent.mkdir(parents=True, exist_ok=True)
    launch.rank_logs.mkdir(parents=True, exist_ok=True)
    outcome = run_supervised(
        launch.argv,
        env=launch.env,
        log_file=launch.log_file,
        run_id=run_id,
        grace_seconds=grace,
        echo=True,
        stop=stop,
    )
    status = _read_status(paths.output_dir)
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
        raise LaunchError(_diagnosis(launch, outcome))


def _read_status(output_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((output_dir / STATUS_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def _diagnosis(launch: Launch, outcome: Outcome) -> str:
    """One line that names the cause: the first rank's error, or how the processes ended."""
    errors = []
    for file in launch.rank_logs.rglob("error.json"):
        try:
            message = json.loads(file.read_bytes())["message"]
            errors.append((int(message["extraInfo"]["timestamp"]), message["message"]))
        except (ValueError, KeyError, TypeError):
            continue
    where = f"whole log: {launch.log_file}"
    if errors:
        return f"training failed: {min(errors)[1]}; {where}"
    if any("Signal 9 (SIGKILL)" in line for line in outcome.tail):
        return (
            "training failed: a rank was killed with SIGKILL, which is what the kernel does when "
            f"memory runs out; use fewer ranks, a shorter cutoff_len or offload; {where}"
        )
    return f"training failed with exit status {outcome.returncode}; {where}"
