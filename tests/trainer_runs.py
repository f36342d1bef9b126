"""Small datasets and training runs for the tests of the native trainer."""

import json
import os
import random
import select
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import yaml
from safetensors.torch import load_file, save_file

from pipeline.progress import show_progress
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.build import BuildReport, open_or_build
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.example_trees import ExampleTrees, has_shared_prefixes
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents

CROSSOVER = 1000  # tokens at which attention costs as much as the rest; of no tiny model
ROOT = Path(__file__).resolve().parent.parent
_TOPOLOGY = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_WORDS = "the file was read and then one test of it failed again so we fix what is wrong".split()


def conversations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """ShareGPT rows of one to three turns and different lengths, the same for the same seed."""
    draw = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(draw.choices(_WORDS, k=draw.randint(1, most)))

    rows = []
    for _ in range(count):
        turns = []
        for _ in range(draw.randint(1, 3)):
            reply = f"<think>\n{words(5)}\n</think>\n\n{words(20)}"
            turns += [{"from": "human", "value": words(30)}, {"from": "gpt", "value": reply}]
        rows.append({"conversations": turns})
    rows[0]["conversations"][1]["loss_weight"] = 0.5
    return rows


def write_dataset(directory: Path, rows: list[Any], name: str = "demo") -> Path:
    """`rows` as a registered dataset. Returns: the dataset directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    info_file = directory / "dataset_info.json"
    info = json.loads(info_file.read_bytes()) if info_file.exists() else {}
    info[name] = {"file_name": f"{name}.json", "formatting": "sharegpt"}
    info_file.write_text(json.dumps(info), "utf-8")
    return directory


def train_args(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> TrainArgs:
    """Six fp32 steps with a global batch of four on one process, without DeepSpeed."""
    values = {
        "model_name_or_path": str(model),
        "dataset_dir": str(dataset_dir),
        "dataset": "demo",
        "output_dir": str(output_dir),
        "deepspeed": None,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "warmup_steps": 2,
        "bf16": False,
        "use_cpu": True,
        "plot_loss": False,
        "preprocessing_num_workers": 1,
        "save_steps": 100,
        "async_save": False,
        **changes,
    }
    return TrainArgs.model_validate(values)


def tokenise(args: TrainArgs) -> BuildReport:
    """The token store of a run, made or brought up to date."""
    with show_progress("tokenise", "rows") as progress:
        return open_or_build(args, progress)


def plan_of(args: TrainArgs, world_size: int = 1) -> tuple[Plan, ExampleTrees]:
    """The plan of a run of a model that can share prefixes, and the documents it counts."""
    store = tokenise(args).store
    shares = has_shared_prefixes(store) if args.share_prefixes is None else args.share_prefixes
    args = args.model_copy(update={"share_prefixes": shares})
    data = ExampleTrees.of(args, store)
    return Plan.of(args, Documents.of(data), world_size, CROSSOVER), data


def examples_of(data: ExampleTrees, documents: list[int]) -> list[Example]:
    """Those that the documents hold, one after the other."""
    return [example for index in documents for example in data.examples(index)]


def read_log(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of trainer_log.jsonl that report a step."""
    lines = (output_dir / "trainer_log.jsonl").read_text("utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in read_log(output_dir)]


def read_status(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "trainer_status.json").read_bytes())


def start(args: TrainArgs, *, ranks: int = 1, **environment: str) -> "subprocess.Popen[str]":
    """The trainer as the launcher starts it: under torchrun if there are several ranks.

    Ranks never tokenise, so the launcher's part of the work is done first.
    """
    is_distributed = ranks > 1 or args.deepspeed is not None
    if is_distributed:
        tokenise(args)
    config = _write_config(args)
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    kept = {k: v for k, v in os.environ.items() if k not in _TOPOLOGY}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            *(torchrun if is_distributed else []),
            "pipeline.trainer",
        ]
        + [str(config)],
        env={
            **kept,
            "PYTHONPATH": os.pathsep.join([environment.pop("PYTHONPATH", ""), str(ROOT)]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(args: TrainArgs, *, ranks: int = 1, status: int = 0, **environment: str) -> str:
    """Start, wait, and expect an exit status. Returns: what was printed."""
    process = start(args, ranks=ranks, **environment)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == status, output
    return output


class RankServer:
    """Runs as `run` does, without torchrun and in a fraction of its time: rank_server.py."""

    def __init__(self) -> None:
        kept = {k: v for k, v in os.environ.items() if k not in _TOPOLOGY}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/rank_server.py")],
            env={**kept, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, args: TrainArgs, *, ranks: int, status: int = 0) -> str:
        """Expect an exit status. Returns: what was printed."""
        self.start(args, ranks=ranks)
        answer, output = self.finish()
        assert answer == status, f"exit status {answer}:\n{output}"
        return output

    def start(self, args: TrainArgs, *, ranks: int) -> None:
        tokenise(args)
        config = _write_config(args)
        self._log = config.with_suffix(".log")
        self._log.unlink(missing_ok=True)
        order = {"config": str(config), "ranks": ranks, "log": str(self._log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def ranks(self) -> list[psutil.Process]:
        """Those that run now."""
        return psutil.Process(self._process.pid).children()

    def has_ended(self) -> bool:
        """Whether `finish` need not wait."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def finish(self) -> tuple[int, str]:
        """Wait for the run that was started. Returns: its exit status and what was printed."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline()), self._log.read_text("utf-8")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _write_config(args: TrainArgs) -> Path:
    config = Path(args.output_dir).with_suffix(".yaml")
    config.write_text(yaml.safe_dump(args.model_dump(mode="json")), "utf-8")
    return config


def spoilt_model(model: Path, copy: Path, tensor: str, factor: float) -> Path:
    """A copy of a model with one of its tensors multiplied."""
    shutil.copytree(model, copy)
    weights = load_file(copy / "model.safetensors")
    weights[tensor] *= factor
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def signalling_tracker(directory: Path, step: int) -> Path:
    """A module `wandb` that sends SIGTERM to rank 0 when `step` is logged. Returns: its folder."""
    directory.mkdir(parents=True, exist_ok=True)
    source = f"""
        import os, signal
        class Run:
            id = "none"
            def log(self, numbers, step):
                if step == {step}:
                    os.kill(os.getpid(), signal.SIGTERM)
            def finish(self): pass
        def init(**given): return Run()
    """
    (directory / "wandb.py").write_text(textwrap.dedent(source), "utf-8")
    return directory
