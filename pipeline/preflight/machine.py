"""Checks of the config, the installation and the machine."""

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from pipeline.config.secrets import resolve_secret
from pipeline.config.shipped import resolve_shipped
from pipeline.errors import ConfigError
from pipeline.launch import machine
from pipeline.paths import from_root
from pipeline.preflight.report import Check, Context
from pipeline.preflight.train_args import train_args
from pipeline.step2_train import nproc_per_node, trackers_of, visible_accelerators
from pipeline.trainer.adapters.quantization import check_quantization
from pipeline.trainer.keys.strategy import AUTO
from pipeline.trainer.modeling.kernels import missing_kernels
from pipeline.trainer.parallel.deepspeed_config import (
    fill_deepspeed_config,
    offloads_optimizer,
    read_deepspeed_config,
)
from pipeline.trainer.parallel.fsdp_config import sharding_of
from pipeline.trainer.reporting.trackers import is_installed

TESTED_TORCH = "2.13.0"
_PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "datasets", "peft")
_ENGINE_SECONDS = 60

# Keys that are accepted because users have them, but that change nothing in the native engine,
# and the values at which there is nothing to tell.
_WITHOUT_EFFECT = {
    "dataloader_num_workers": (0, "batches are read from a memory-mapped file, without workers"),
}


_SOURCE_KEYS = {"path": "files", "lf_path": "local_lf"}
"""Keys of `source` that only one type reads. Configs of the reference system set the others."""


def check_config(context: Context) -> Iterator[Check]:
    loaded = context.loaded
    changed = f", with {', '.join(loaded.overrides)}" if loaded.overrides else ""
    yield Check("OK", "config", f"{loaded.path} is valid{changed}")
    for key, line, why in loaded.ignored:
        yield Check("WARN", "config", f"{loaded.path.name}:{line}: {key} is ignored: {why}")
    source = context.given.source
    for key, kind in _SOURCE_KEYS.items():
        if getattr(source, key) and source.type != kind:
            yield Check(
                "WARN",
                "config",
                f"source.{key} has no effect with source.type {source.type}",
                f"write source.type: {kind} to read it",
            )
    training = context.given.training
    if context.given.infrastructure.engine != "native":
        return
    device = "cuda" if visible_accelerators(context.config) else "cpu"
    for key, why in missing_kernels(training, device).items():
        yield Check("WARN", "config", f"training.{key} has no effect: {why}")
    for key, (silent, why) in _WITHOUT_EFFECT.items():
        if key in training.model_fields_set and getattr(training, key) != silent:
            yield Check("WARN", "config", f"training.{key} has no effect: {why}")
    if context.given.conversion.exclude_repos_file:
        file, note = resolve_shipped(context.given.conversion.exclude_repos_file)
        if note:
            yield Check("WARN", "config", f"conversion.exclude_repos_file: {note}")
        if not file.is_file():
            yield Check(
                "FAIL",
                "config",
                f"conversion.exclude_repos_file: {file}: no such file",
                "use training_config/excluded_repos.txt, or null to keep all repositories",
            )


def check_environment(context: Context) -> Iterator[Check]:
    versions, missing = {}, []
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        yield Check(
            "FAIL",
            "environment",
            f"not installed: {', '.join(missing)}",
            "run bash scripts/install.sh",
        )
    yield Check("OK", "environment", ", ".join(f"{name} {v}" for name, v in versions.items()))
    if context.given.infrastructure.engine == "native":
        training = context.given.training
        check_quantization(training, None if training.deepspeed == AUTO else training.deepspeed)
    torch_version = versions.get("torch", TESTED_TORCH)
    if torch_version.split("+")[0] != TESTED_TORCH:
        yield Check(
            "WARN",
            "environment",
            f"torch {torch_version} is not the tested version",
            f"pip install torch=={TESTED_TORCH}",
        )
    try:
        machine.free_tcp_port()
    except OSError as error:
        yield Check(
            "FAIL",
            "environment",
            f"no free TCP port on 127.0.0.1 for torchrun's rendezvous ({error.strerror})",
            "end programs that hold ports, or allow this user to open one",
        )


def check_engine(context: Context) -> Iterator[Check]:
    given = context.given
    if given.infrastructure.engine == "llamafactory":
        yield from _check_llamafactory(from_root(given.infrastructure.llamafactory_python))
        return
    ranks = nproc_per_node(context.config)
    sharding = sharding_of(given.training, os.environ)
    if sharding is not None:
        name = sharding.name(sharding.num_replicas(ranks, ranks))
        yield Check("OK", "engine", f"native, {name} on {ranks} ranks")
        return
    if not given.training.deepspeed:
        yield Check("OK", "engine", "native, DistributedDataParallel")
        return
    if given.training.deepspeed == AUTO:
        yield Check("OK", "engine", f"native, on {ranks} ranks as memory allows (deepspeed auto)")
        return
    path, note = resolve_shipped(str(given.training.deepspeed))
    if note:
        yield Check("WARN", "engine", f"training.deepspeed: {note}")
    config = read_deepspeed_config(path)
    stage = config["zero_optimization"]["stage"]
    yield Check("OK", "engine", f"native, DeepSpeed ZeRO stage {stage} ({path.name})")
    # The hidden size decides bucket sizes only, nothing that could contradict.
    fill_deepspeed_config(config, path, train_args(context), ranks, hidden_size=1)
    yield Check("OK", "deepspeed", f"{path.name} agrees with the batch settings on {ranks} ranks")
    if offloads_optimizer(config) and machine.compiler() is None:
        yield Check(
            "FAIL",
            "engine",
            f"{path.name} moves the optimizer to the CPU, for which DeepSpeed compiles C++ code, "
            "but there is no C++ compiler",
            "install g++ or use a DeepSpeed file without offload",
        )


def _check_llamafactory(python) -> Iterator[Check]:
    if not python.is_file():
        yield Check(
            "FAIL",
            "engine",
            f"infrastructure.llamafactory_python: {python} does not exist",
            "give the python of an environment that has LLaMA-Factory",
        )
        return
    code = "from importlib.metadata import version; print(version('llamafactory'))"
    found = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, timeout=_ENGINE_SECONDS
    )
    if found.returncode:
        yield Check(
            "FAIL", "engine", f"{python} has no LLaMA-Factory", "pip install llamafactory there"
        )
    else:
        yield Check("OK", "engine", f"LLaMA-Factory {found.stdout.strip()} ({python})")


def check_accelerators(context: Context) -> Iterator[Check]:
    found = visible_accelerators(context.config)
    ranks = nproc_per_node(context.config)
    if not found:
        yield Check("OK", "accelerators", f"none visible; {ranks} ranks on the CPU (gloo)")
        if ranks > machine.cpu_count():
            yield Check(
                "WARN",
                "accelerators",
                f"{ranks} ranks share {machine.cpu_count()} CPU cores",
                "lower infrastructure.n_gpus_per_node",
            )
        return
    names = ", ".join(sorted({accelerator.name for accelerator in found}))
    if ranks > len(found):
        yield Check(
            "FAIL",
            "accelerators",
            f"infrastructure.n_gpus_per_node is {ranks}, but {len(found)} are visible ({names})",
            "lower it, write auto, or check CUDA_VISIBLE_DEVICES",
        )
    else:
        yield Check("OK", "accelerators", f"{ranks} of {len(found)} used ({names})")


def check_credentials(context: Context) -> Iterator[Check]:
    given = context.given
    for key in ("wandb_api_key", "hf_token"):
        try:
            resolve_secret(getattr(given.credentials, key), f"credentials.{key}")
        except ConfigError as error:
            yield Check("FAIL", "credentials", str(error))
    wandb_mode = given.experiment.wandb_mode
    trackers = trackers_of(given)
    if not trackers:
        yield Check("OK", "credentials", "no tracker asked for")
        return
    for name in trackers:
        if given.infrastructure.engine == "native" and not is_installed(name):
            yield Check(
                "FAIL",
                "credentials",
                f"{name} is asked for, but not installed",
                f"pip install 'sft-pipeline[{name}]', or remove it from training.report_to"
                + (" and set experiment.wandb_mode: disabled" if name == "wandb" else ""),
            )
        elif name == "wandb" and wandb_mode == "online" and not given.credentials.wandb_api_key:
            yield Check(
                "WARN",
                "credentials",
                "wandb online without credentials.wandb_api_key relies on an earlier wandb login",
                "set it to env:WANDB_API_KEY",
            )
        else:
            yield Check("OK", "credentials", f"wandb {wandb_mode}" if name == "wandb" else name)
