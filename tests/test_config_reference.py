"""A config of the reference system loads, and what has no meaning here is named once.

Run: python -m pytest tests/test_config_reference.py
"""

from pathlib import Path

from pipeline.config import load_config
from pipeline.config.shipped import resolve_shipped
from pipeline.paths import PROJECT_ROOT

# Every section and key of the reference system, with its own spelling of values and paths.
REFERENCE = """\
meta_info:
  name: trainer
  label: Trainer
  description: Fine-tunes on trajectories.
  parent: legoflow
  blocks: {}
  dependencies:
    from:
      source.job_dir:
        from: tracer.output.raw_trajectories_dir
        when: {source.type: harbor_job}
        required: true
    to: {}
  resources:
    ip: local
    user: me
    key: ~/.ssh/id
    port: 22
    pwd: null
    directory: null
    public_storage: null
  repositories:
    llama_factory:
      url: https://example.com/LLaMA-Factory
      branch: main
      commit: 0123456789abcdef0123456789abcdef01234567
      path: repos/LLaMA-Factory
      readonly: true
  environment:
    sft_uv: artifacts/env/lf
    python_version: "3.12"
    packages: [repos/LLaMA-Factory]

runtime_info:
  input:
    source:
      type: hf_lf
      scaffold: openhands-sdk
      job_dir: ../tracer/artifacts/jobs/<job>
      hf_hub_url: org/dataset
      hf_file_name: data.json
      hf_subset: ""
      hf_split: train
      lf_path: ""
    conversion:
      max_instances: 0
      exclude_repos_file: scripts/excluded_repos.txt
      data_name: demo
    dataset:
      name: ""
    model:
      model_name_or_path: org/model
      trust_remote_code: true
    training:
      stage: sft
      finetuning_type: full
      deepspeed: scripts/deepspeed/ds_z3_config.json
      template: qwen3_5
      cutoff_len: 131072
      rope_scaling: null
      max_samples: 1000000
      preprocessing_num_workers: 16
      dataloader_num_workers: 4
      output_dir: demo_run
      logging_steps: 1
      save_strategy: steps
      save_steps: 200
      overwrite_output_dir: false
      save_only_model: true
      resume_from_checkpoint: null
      per_device_train_batch_size: 1
      gradient_accumulation_steps: 8
      learning_rate: 5.0e-5
      weight_decay: 0.01
      max_grad_norm: 1.0
      num_train_epochs: 3.0
      lr_scheduler_type: cosine
      warmup_ratio: 0.1
      max_steps: 10
      bf16: true
      ddp_timeout: 180000000
      enable_liger_kernel: true
      use_unsloth_gc: true
      flash_attn: sdpa
    infrastructure:
      n_gpus_per_node: 8
    experiment:
      run_name: ""
      wandb_mode: offline
      wandb_run_id: ""
    credentials:
      wandb_api_key: ""
      hf_token: ""
  output:
    checkpoint_path: {description: newest checkpoint, value: null}
    artifacts: {train_results: null, train_loss_plot: null, training_log: null}
    training_curves: {description: wandb run, value: null}
    training_metrics:
      description: metrics
      value: {final_loss: null, train_runtime: null, total_steps: null}
"""


def test_a_config_of_the_reference_system_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(REFERENCE)
    loaded = load_config(path)
    given = loaded.config.runtime_info.input
    assert given.training.ddp_timeout == 180_000_000
    assert given.training.deepspeed == "scripts/deepspeed/ds_z3_config.json"
    assert loaded.config.runtime_info.output is not None
    assert [(key, line) for key, line, _ in loaded.ignored] == [
        ("meta_info.parent", 5),
        ("meta_info.blocks", 6),
        ("meta_info.dependencies", 7),
        ("meta_info.resources", 14),
        ("meta_info.repositories", 22),
        ("meta_info.environment", 29),
    ]
    assert set(loaded.resolved()["meta_info"]) == {"name", "label", "description"}


def test_an_existing_path_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "ds_z3_config.json"
    file.touch()
    assert resolve_shipped(str(file)) == (file, None)
    assert resolve_shipped("pyproject.toml") == (PROJECT_ROOT / "pyproject.toml", None)


def test_paths_of_the_reference_system_lead_to_the_shipped_files(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pipeline.config.shipped.SHIPPED", tmp_path)
    monkeypatch.setattr("pipeline.config.shipped.PROJECT_ROOT", tmp_path.parent)
    (tmp_path / "deepspeed").mkdir()
    for name in ("excluded_repos.txt", "deepspeed/ds_z2_config.json"):
        (tmp_path / name).touch()
    old = "artifacts/training_config/deepspeed/ds_z2_config.json"
    assert resolve_shipped(old) == (
        tmp_path / "deepspeed/ds_z2_config.json",
        f"{old} does not exist; {tmp_path.name}/deepspeed/ds_z2_config.json is used",
    )
    assert resolve_shipped("scripts/excluded_repos.txt")[0] == tmp_path / "excluded_repos.txt"
    assert resolve_shipped("a/absent.json") == (PROJECT_ROOT / "a/absent.json", None)
