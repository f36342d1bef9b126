"""The memory plan against the peak that a run really takes, on CPU, for 20 kinds of training.

    python benchmarks/memory.py --json

Every configuration is a real run of the trainer in processes of their own, which records its plan
and its peak: resident memory, less what was resident before the model was loaded. glibc keeps freed
memory for itself unless it was mapped alone, so all above 64 KiB is (MALLOC_MMAP_THRESHOLD_), and
oneDNN keeps the kernels it has generated, so it may keep one: the peak is that of the tensors, as
an accelerator's allocator reports it. All examples have one length, so that the largest micro-batch
comes when the optimizer has its state.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).resolve().parent.parent
_DEEPSPEED = _ROOT / "training_config" / "deepspeed"
_MIB = 2**20
_ZERO_2 = {"deepspeed": str(_DEEPSPEED / "ds_z2_config.json"), "bf16": True}
_ZERO_3 = {"deepspeed": str(_DEEPSPEED / "ds_z3_config.json")}
_NONE = {"checkpoint_activations": "none"}
_PACKED = {"packing": True, "cutoff_len": 2900}
_LORA = {"finetuning_type": "lora"}

CONFIGURATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "fp32": (1, {}),
    "fp32, full recomputation": (1, {"checkpoint_activations": "full"}),
    "fp32, no recomputation": (1, _NONE),
    "fp32, batch of 2": (1, {"per_device_train_batch_size": 2}),
    "fp32, accumulation": (1, {"gradient_accumulation_steps": 2}),
    "fp32, packed": (1, _PACKED),
    "fp32, packed, no recomputation": (1, {**_PACKED, **_NONE}),
    "bf16": (1, {"bf16": True}),
    "bf16, no recomputation": (1, {"bf16": True, **_NONE}),
    "adamw_torch_fused": (1, {"optim": "adamw_torch_fused"}),
    "adamw_bf16": (1, {"optim": "adamw_bf16"}),
    "adamw_8bit": (1, {"optim": "adamw_8bit"}),
    "Muon": (1, {"use_muon": True}),
    "LoRA": (1, {**_LORA, **_NONE}),
    "LoRA, bf16, packed": (1, {**_LORA, **_PACKED, "bf16": True}),
    "DDP": (2, {}),
    "FSDP2": (2, {"fsdp": "full_shard"}),
    "ZeRO-2, bf16": (2, _ZERO_2),
    "ZeRO-3, bf16": (2, {**_ZERO_3, "bf16": True}),
    "ZeRO-3, fp32, no recomputation": (2, {**_ZERO_3, **_NONE}),
}
"""Name -> ranks and keys beside those of `_run`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", help="a configuration; may be repeated")
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only or list(CONFIGURATIONS)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), names, options.hidden_size, quiet=options.json)
    if options.json:
        print(json.dumps(found))
        return
    worst = max(found.values(), key=lambda run: abs(run["ratio"] - 1))
    print(f"{len(found)} configurations, the worst off by {100 * (worst['ratio'] - 1):+.1f} %")


def measure(
    directory: Path, names: list[str], hidden_size: int = 768, *, quiet: bool
) -> dict[str, dict[str, Any]]:
    """Name -> bytes predicted and measured, their ratio, and the classes of the prediction."""
    model = _model(directory / "model", hidden_size)
    dataset_dir = _dataset(directory / "data")
    found = {}
    for number, name in enumerate(names):
        ranks, keys = CONFIGURATIONS[name]
        plan = _run(model, dataset_dir, directory / f"run-{number}", ranks, keys)
        ratio = plan["predicted_bytes"] / plan["measured_bytes"]
        found[name] = {**plan, "ratio": round(ratio, 4)}
        if not quiet:
            print(
                f"{name:>32}: planned {plan['predicted_bytes'] / _MIB:7.1f} MiB, measured "
                f"{plan['measured_bytes'] / _MIB:7.1f} MiB, ratio {ratio:.3f}",
                flush=True,
            )
    return found


def _model(path: Path, hidden_size: int) -> Path:
    """A Qwen3 of six layers: 44 M parameters with the default size."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.builtin import ensure_builtin

    path = ensure_builtin("builtin:tiny-qwen3", path, _ROOT / "examples" / "job")
    config = AutoConfig.from_pretrained(path)
    sizes = {"hidden_size": hidden_size, "intermediate_size": 3 * hidden_size}
    heads = {"num_attention_heads": hidden_size // 64, "num_key_value_heads": hidden_size // 192}
    config.update({**sizes, **heads, "head_dim": 64, "num_hidden_layers": 6, "vocab_size": 4096})
    config.layer_types = ["full_attention"] * 6
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def _dataset(directory: Path) -> Path:
    """Examples of about 1,400 tokens; the reply, which is trained, is a third."""
    text = "the file was read and then one test of it failed again so we fix what is wrong "
    row = [{"from": "human", "value": text * 50}, {"from": "gpt", "value": text * 25}]
    directory.mkdir()
    (directory / "demo.json").write_text(json.dumps([{"conversations": row}] * 32))
    info = {"demo": {"file_name": "demo.json", "formatting": "sharegpt"}}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return directory


def _run(
    model: Path, dataset_dir: Path, output_dir: Path, ranks: int, keys: dict[str, Any]
) -> dict[str, Any]:
    """Returns: `memory_plan` of the run's results."""
    from pipeline.progress import show_progress
    from pipeline.trainer.args import TrainArgs
    from pipeline.trainer.data.build import open_or_build

    values = {
        "model_name_or_path": str(model),
        "dataset_dir": str(dataset_dir),
        "dataset": "demo",
        "output_dir": str(output_dir),
        "deepspeed": None,
        "bf16": False,
        "use_cpu": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": 3,
        "save_strategy": "no",
        "plot_loss": False,
        "preprocessing_num_workers": 1,
        **keys,
    }
    with show_progress("tokenise", "rows") as progress:  # ranks never do
        open_or_build(TrainArgs.model_validate(values), progress)
    file = output_dir.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(values))
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    command = [sys.executable, "-m", *(torchrun if ranks > 1 else []), "pipeline.trainer"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**16),
        "MALLOC_TRIM_THRESHOLD_": str(2**16),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1",
    }
    done = subprocess.run(
        [*command, str(file)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{keys}: the run failed:\n{done.stderr}")
    return json.loads((output_dir / "all_results.json").read_bytes())["memory_plan"]


if __name__ == "__main__":
    main()
