"""How fast rows become tokens, and in how much memory: ours, LLaMA-Factory's and TRL's.

Run: python benchmarks/tokens.py DIRECTORY [--trajectories 2000] [--tokens 8000] [--workers 1]
     [--json]
     python benchmarks/tokens.py --plan [--ranks 8] [--global-batch 64] [--json]

Data and tokenizer are made in DIRECTORY once and used again (trajectories.py). LLaMA-Factory and
TRL run when LLAMAFACTORY_PYTHON and TRL_PYTHON name interpreters that have them. Rates are per
second of CPU time of all processes, imports included, so that other work on the machine does not
count. With --plan it says how good the plan of a run is, over several mixes of lengths
(plan_quality.py), and needs no DIRECTORY.
"""

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

# Run by its path, Python would look for the other benchmarks beside this file alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import peers, plan_quality
from benchmarks.trajectories import prepare
from benchmarks.usage import measured


def ours(model: Path, data: Path, workers: int) -> dict[str, Any]:
    train_yaml = data / "train.yaml"
    values = {
        "model_name_or_path": str(model),
        "dataset": "bench",
        "dataset_dir": str(data),
        "output_dir": str(data / "run"),
        "tokenized_path": str(data / "ours"),
        "overwrite_cache": True,
        "preprocessing_num_workers": workers,
        "cutoff_len": 131_072,
    }
    train_yaml.write_text(yaml.safe_dump(values))
    return measured([sys.executable, "-m", "pipeline.cli", "tokenize", str(train_yaml), "--json"])


def theirs(python: str, script: str, model: Path, data: Path, workers: int) -> dict[str, Any]:
    stubs = data.parent / "stubs"  # LLaMA-Factory imports torchaudio for text as well
    (stubs / "torchaudio").mkdir(parents=True, exist_ok=True)
    (stubs / "torchaudio" / "__init__.py").touch()
    code = textwrap.dedent(script)
    return measured([python, "-c", code, str(model), str(data), str(workers)], stubs)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--trajectories", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=8000, help="mean length of a trajectory")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="how good the plan of a run is")
    plan_quality.add_options(parser)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if given.plan:
        plan_quality.report(parser, given)
    elif given.directory is None:
        parser.error("needs DIRECTORY, or --plan")
    else:
        report_speed(given)


def report_speed(given: argparse.Namespace) -> None:
    model, data = prepare(given.directory.absolute(), given.trajectories, given.tokens)
    found = {"ours": ours(model, data, given.workers)}
    for name, script in (("llamafactory", peers.LLAMAFACTORY), ("trl", peers.TRL)):
        python = os.environ.get(f"{name.upper()}_PYTHON")
        if python:
            found[name] = theirs(python, script, model, data, given.workers)
    size = (data / "bench.json").stat().st_size
    if given.json:
        print(json.dumps({"file_mb": round(size / 1e6), "workers": given.workers, **found}))
        return
    for name, result in found.items():
        print(
            f"{name}: {result['mtok_per_cpu_second']} Mtok per CPU second, {result['tokens']:,} "
            f"tokens in {result['seconds']} s ({result['cpu_seconds']} s of CPU), peak RSS "
            f"{result['peak_rss_mb']} MB ({result['peak_rss_tree_mb']} MB with all workers)"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
