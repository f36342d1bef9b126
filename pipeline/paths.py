"""Where everything generated lives, computed from the config in one place.

Relative paths in config.yaml are relative to the project root, whichever directory the command is
started in and wherever the config file itself lies, so that a copied config means the same files.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Config

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SHIPPED = PROJECT_ROOT / "training_config"


def from_root(path: str) -> Path:
    """`path` of a config key as an absolute path (`~` expanded, relative to the project root)."""
    return PROJECT_ROOT / Path(path).expanduser()


@dataclass(frozen=True)
class RunPaths:
    """The files of one run. Nothing here touches the disk."""

    artifacts: Path
    data_name: str
    dataset_name: str
    output_dir: Path
    run_name: str

    @classmethod
    def of(cls, config: Config) -> "RunPaths":
        given = config.runtime_info.input
        artifacts = from_root(given.infrastructure.artifacts_dir)
        output_dir = _output_dir(artifacts, given.training.output_dir)
        models = artifacts / "model"
        label = output_dir.relative_to(models) if output_dir.is_relative_to(models) else None
        return cls(
            artifacts=artifacts,
            data_name=given.conversion.data_name,
            dataset_name=given.dataset.name or given.conversion.data_name,
            output_dir=output_dir,
            run_name=given.experiment.run_name
            or (label.as_posix().replace("/", "-") if label else output_dir.name),
        )

    @property
    def im_file(self) -> Path:
        return self.artifacts / "data" / "im_data" / f"{self.data_name}.jsonl"

    @property
    def dataset_dir(self) -> Path:
        return self.artifacts / "data" / "lf_data"

    @property
    def lf_file(self) -> Path:
        return self.dataset_dir / f"{self.data_name}.json"

    @property
    def hub_data(self) -> Path:
        return self.artifacts / "data" / "hf_data"

    @property
    def train_yaml(self) -> Path:
        return self.artifacts / "training_config" / f"{self.run_name}.yaml"

    @property
    def cache(self) -> Path:
        return self.artifacts / "cache"

    @property
    def logs(self) -> Path:
        return self.artifacts / "logs"

    @property
    def archives(self) -> Path:
        return self.artifacts / "archives"

    @property
    def index(self) -> Path:
        return self.artifacts / "index.yaml"


def _output_dir(artifacts: Path, output_dir: str) -> Path:
    """`a/b` -> <artifacts>/model/a/b, keeping every part; absolute paths are honoured."""
    path = Path(output_dir).expanduser()
    if path.is_absolute():
        return path
    if path.parts[:2] == ("artifacts", "model"):  # already spelt out: do not double it
        path = Path(*path.parts[2:])
    return artifacts / "model" / path
