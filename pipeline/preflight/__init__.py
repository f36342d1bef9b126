"""The dry run: everything that can be known to go wrong, before anything is started.

All checks run before the first exit, so that one dry run shows all problems. Nothing is written:
what has to be tried out (rendering examples, building a model's skeleton) happens in memory.
"""

from pipeline.config.load import LoadedConfig
from pipeline.paths import RunPaths
from pipeline.preflight.machine import (
    check_accelerators,
    check_config,
    check_credentials,
    check_engine,
    check_environment,
)
from pipeline.preflight.output import (
    check_artifacts,
    check_disk,
    check_output_dir,
    check_resume,
)
from pipeline.preflight.report import Check, CheckFunction, Context, Report, run_check
from pipeline.preflight.source import check_dataset_entry, check_source
from pipeline.preflight.training import check_data_for_model, check_model

__all__ = ["Check", "Report", "run_checks"]

_CHECKS: tuple[tuple[str, CheckFunction], ...] = (
    ("config", check_config),
    ("environment", check_environment),
    ("engine", check_engine),
    ("artifacts", check_artifacts),
    ("source", check_source),
    ("dataset", check_dataset_entry),
    ("accelerators", check_accelerators),
    ("output_dir", check_output_dir),
    ("resume", check_resume),
    ("credentials", check_credentials),
    ("model", check_model),
    ("template", check_data_for_model),
    ("disk", check_disk),
)


def run_checks(loaded: LoadedConfig) -> Report:
    """Run every check; none of them raises for what a user can mend."""
    context = Context(loaded, RunPaths.of(loaded.config))
    return Report(
        tuple(check for name, function in _CHECKS for check in run_check(name, function, context))
    )
