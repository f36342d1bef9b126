"""STEP 0 and 1 as config.yaml asks for them: obtain the examples, register them."""

import logging
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.config.secrets import resolve_secret
from pipeline.conversion.lf_file import sample_rows, validate_lf
from pipeline.conversion.source import Source
from pipeline.errors import DataError
from pipeline.hub import fetch_dataset
from pipeline.launch.signals import StopRequests
from pipeline.paths import RunPaths, from_root
from pipeline.progress import show_progress
from pipeline.runs.conversion_options import convert_options, lf_format_of, raw_source
from pipeline.sharegpt import LfFormat
from pipeline.step0_convert import convert, stale_reason
from pipeline.step1_register import register as register_dataset
from pipeline.step2_train import model_path

logger = logging.getLogger(__name__)


def prepare_data(config: Config, paths: RunPaths, stop: StopRequests, *, register: bool) -> Path:
    """Run STEP 0 and, if asked to, STEP 1.

    Returns: the file of examples.
    Raises: DataError, RegistrationError: as the steps; InterruptedRun: a signal came.
    """
    # A conversion leaves nothing half-written, so a signal may end it at once.
    with stop.interruptible():
        source = raw_source(config)
        if source:
            file = _convert(config, source, paths)
            lf_format = lf_format_of(config.runtime_info.input.conversion)
        else:
            file, lf_format = _existing(config, paths)
    if register:
        report = register_dataset(paths.dataset_dir, paths.dataset_name, file, lf_format)
        logger.info("%s", report.line())
    return file


def _convert(config: Config, source: Source, paths: RunPaths) -> Path:
    options = convert_options(config, lambda: model_path(config, paths, build=True))
    reason = stale_reason(source, paths.im_file, paths.lf_file, options)
    if reason is not None:
        logger.info("step 0: converting %s (%s)", source.path, reason)
    with show_progress("step 0", "trials") as progress:
        report = convert(source, paths.im_file, paths.lf_file, options, progress)
    logger.info("%s", report.line())
    for note in report.notes:
        logger.warning("step 0: %s", note)
    return paths.lf_file


def _existing(config: Config, paths: RunPaths) -> tuple[Path, LfFormat]:
    """Validate a file of examples that needs no conversion; take a sample if there is a cap."""
    given = config.runtime_info.input
    if given.source.type == "hf_lf":
        token = resolve_secret(given.credentials.hf_token, "credentials.hf_token")
        file = fetch_dataset(given.source, paths.hub_data, token)
    else:
        file = from_root(given.source.lf_path)
    summary = validate_lf(file)
    if summary.num_bad:
        for error in summary.first_errors:
            logger.warning("step 0: %s", error)
        if summary.num_bad > given.conversion.max_reject_fraction * summary.num_rows:
            raise DataError(
                f"{file}: {summary.num_bad:,} of {summary.num_rows:,} rows cannot be used (more "
                f"than conversion.max_reject_fraction); the first: {summary.first_errors[0]}"
            )
    kept, cap = summary.num_rows, given.conversion.max_instances
    if 0 < cap < summary.num_rows:
        kept = sample_rows(file, paths.lf_file, cap, given.conversion.seed)
        file = paths.lf_file
    logger.info(
        "step 0: nothing to convert (%s): %s rows read, %s taken, %s unusable -> %s",
        given.source.type,
        f"{summary.num_rows:,}",
        f"{kept:,}",
        f"{summary.num_bad:,}",
        file,
    )
    return file, summary.lf_format
