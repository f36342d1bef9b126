"""The same YAML, data and seed in real LLaMA-Factory and here: the loss of every step, the weights.

Run: LLAMAFACTORY_PYTHON=<interpreter> python -m benchmarks.llamafactory.losses DIRECTORY
     [--steps 20] [--json]

Everything is made in DIRECTORY: a tiny model with random weights and conversations with tools and
reasoning. Both engines read one training YAML, but for `output_dir`, in fp32 on the CPU; the order
is that of the file. One process and two with ZeRO-3.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from benchmarks.trajectories import make_rows
from pipeline import builtin
from pipeline.step1_register import register

_ROOT = Path(__file__).resolve().parent.parent.parent
_BATCH = 4
_NOT_OURS = frozenset({"README.md", "training_args.bin"})
"""A model card, and a pickle of LLaMA-Factory's own classes."""


def training_yaml(directory: Path, steps: int, deepspeed: Path | None) -> dict[str, Any]:
    """What both engines read."""
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(directory / "model"),
        "dataset": "bench",
        "dataset_dir": str(directory / "data"),
        "template": "qwen3",
        "cutoff_len": 16_384,  # no row is longer: LLaMA-Factory would cut inside a turn
        "disable_shuffling": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": _BATCH if deepspeed is None else _BATCH // 2,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "bf16": False,
        "seed": 7,
        "logging_steps": 1,
        "save_strategy": "no",
        "plot_loss": True,
        "report_to": "none",
        "deepspeed": None if deepspeed is None else str(deepspeed),
    }


def prepare(directory: Path, steps: int) -> None:
    """The model and as many rows as the steps need."""
    if not (directory / "model").is_dir():
        made = builtin.ensure_builtin("builtin:tiny-qwen3", directory / "cache", _ROOT / "examples")
        shutil.copytree(made, directory / "model")
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = list(make_rows(steps * _BATCH, 500))
    (data / "bench.json").write_text(json.dumps(rows), "utf-8")
    register(data, "bench", data / "bench.json", "structured")


def compare(directory: Path, steps: int, deepspeed: Path | None) -> dict[str, Any]:
    """Train in both and hold the results against each other."""
    name = "one process" if deepspeed is None else "ZeRO-3 on two processes"
    world_size = 1 if deepspeed is None else 2
    outputs: dict[str, Path] = {}
    for engine in ("llamafactory", "native"):
        output = directory / f"{engine}-{world_size}"
        shutil.rmtree(output, ignore_errors=True)
        values = training_yaml(directory, steps, deepspeed) | {"output_dir": str(output)}
        train_yaml = directory / f"{engine}-{world_size}.yaml"
        train_yaml.write_text(yaml.safe_dump(values), "utf-8")
        _train(engine, train_yaml, world_size)
        outputs[engine] = output
    losses = {engine: _losses(output) for engine, output in outputs.items()}
    weights = [load_file(outputs[engine] / "model.safetensors") for engine in outputs]
    files = [{file.name for file in output.iterdir()} for output in outputs.values()]
    return {
        "run": name,
        "steps": [len(losses[engine]) for engine in outputs],
        "losses": losses,
        "largest_loss_difference": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
        "largest_weight_difference": max(
            float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]
        ),
        "same_weight_names": weights[0].keys() == weights[1].keys(),
        "files_missing_here": sorted(files[0] - files[1] - _NOT_OURS),
        "files_only_here": sorted(files[1] - files[0]),
    }


def _train(engine: str, train_yaml: Path, world_size: int) -> None:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(train_yaml.parent / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if engine == "native":
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep)
        sft = [sys.executable, "-m", "pipeline.cli"]
        commands = [[*sft, "tokenize", str(train_yaml)]]
        module = ["-m", "pipeline.trainer", str(train_yaml)]
        python = sys.executable
    else:
        python = os.environ["LLAMAFACTORY_PYTHON"]
        environment.pop("PYTHONPATH", None)
        module = ["-m", "llamafactory.launcher", str(train_yaml)]
        commands = []
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    commands.append([python, *(torchrun if world_size > 1 else []), *module])
    for command in commands:
        finished = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if finished.returncode != 0:
            raise SystemExit(f"{' '.join(command)}:\n{finished.stderr[-3000:]}")


def _losses(output: Path) -> list[float]:
    lines = (output / "trainer_log.jsonl").read_text("utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if "LLAMAFACTORY_PYTHON" not in os.environ:
        parser.error("set LLAMAFACTORY_PYTHON; benchmarks/llamafactory/install.sh makes one")
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed says on stdout that it finds no other
    directory = given.directory.absolute()
    prepare(directory, given.steps)
    zero3 = _ROOT / "training_config" / "deepspeed" / "ds_z3_config.json"
    runs = [compare(directory, given.steps, deepspeed) for deepspeed in (None, zero3)]
    if given.json:
        about = {"python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({**about, "runs": runs}, indent=2))
        return
    for run in runs:
        print(
            f"{run['run']}: {run['steps'][0]} and {run['steps'][1]} steps, losses differ by at "
            f"most {run['largest_loss_difference']:.2e}, weights by "
            f"{run['largest_weight_difference']:.2e}; missing here: {run['files_missing_here']}, "
            f"only here: {run['files_only_here']}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
