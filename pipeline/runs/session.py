"""One run from its first line to its last: dry run, steps, write-back, archive.

What is recorded is frozen before anything runs, and every end, good or bad, is written down: in the
record, in artifacts/index.yaml and in config.yaml's runtime_info.output.
"""

import json
import logging
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock

from pipeline.config.load import LoadedConfig
from pipeline.errors import PipelineError, PreflightError, explain_os_error
from pipeline.files import sha256_file, write_text
from pipeline.launch.signals import StopRequests
from pipeline.paths import PROJECT_ROOT, RunPaths
from pipeline.preflight import Report, run_checks
from pipeline.runs import index, record
from pipeline.runs.data import prepare_data
from pipeline.runs.ending import Ending, ending_recorded
from pipeline.runs.lock import RunLock
from pipeline.runs.owner import utc_now
from pipeline.runs.record import RunStatus
from pipeline.runs.write_back import collect_output, write_back
from pipeline.step2_train import (
    Launch,
    dataset_files,
    decided,
    model_path,
    plan_launch,
    render_train_yaml,
    tokenize,
    train,
    training_values,
)
from pipeline.trainer.output_dir import RECORD, TrainerStatus, check_output_dir

logger = logging.getLogger(__name__)


def run(loaded: LoadedConfig, command: Sequence[str], show: Callable[[Report], None]) -> None:
    """`sft run`: everything, archived as artifacts/archives/run_NNN whichever way it ends.

    Raises: PipelineError: what ended the run; it is archived already.
    """
    paths = RunPaths.of(loaded.config)
    with StopRequests() as stop:
        handle = _open_run(loaded, paths)

        def close(ending: Ending) -> None:
            index.close_run(
                handle, status=ending.status, exit_code=ending.exit_code, notes=ending.notes
            )
            logger.info("archived as %s (%s)", handle.directory, ending.status)

        with ending_recorded(close):
            _freeze(handle.directory, handle.run_id, loaded, command)
            with stop.interruptible():
                report = run_checks(loaded)
            stop.check()  # a library that is being imported may have swallowed the interruption
            show(report)
            record.add(handle.directory, "dryrun.json", report.to_json().encode())
            if report.failures:
                raise PreflightError(
                    f"the dry run has {len(report.failures)} FAIL; nothing was started; mend what "
                    "they name and start again"
                )
            with RunLock(paths.output_dir, handle.run_id):
                _run_steps(loaded, paths, handle.run_id, handle.directory, stop)


def _open_run(loaded: LoadedConfig, paths: RunPaths) -> index.RunHandle:
    try:
        return index.open_run(
            paths.artifacts,
            config=loaded.path,
            run_name=paths.run_name,
            output_dir=paths.output_dir,
        )
    except OSError as error:
        raise PreflightError(
            f"infrastructure.artifacts_dir: no run can be recorded: {explain_os_error(error)}"
        ) from error


def run_without_archive(loaded: LoadedConfig, command: Sequence[str]) -> None:
    """`sft train`: the steps and the write-back; the record goes into output_dir.

    Raises: PipelineError: what ended the run.
    """
    paths = RunPaths.of(loaded.config)
    run_id = "unarchived-" + utc_now().replace(":", "").replace("-", "")
    directory = paths.output_dir / RECORD
    with StopRequests() as stop, RunLock(paths.output_dir, run_id):
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)

        def close(ending: Ending) -> None:
            record.finish(directory, ending.status, ending.exit_code, notes=ending.notes)

        with ending_recorded(close):
            _freeze(directory, run_id, loaded, command)
            _run_steps(loaded, paths, run_id, directory, stop)


def prepare(loaded: LoadedConfig, *, register: bool) -> None:
    """`sft prep`: STEP 0 and, if asked to, STEP 1.

    Raises: PipelineError: what ended it.
    """
    paths = RunPaths.of(loaded.config)
    with StopRequests() as stop, _data_lock(paths, stop):
        prepare_data(loaded.config, paths, stop, register=register)
    logger.info("next: look at %s, then bash scripts/start.sh", paths.dataset_dir)


def archive_last(loaded: LoadedConfig, notes: str) -> Path:
    """`sft archive`: move the record of the last `sft train` of this config into the archive.

    Raises: PipelineError: there is none, or that run still goes on.
    """
    paths = RunPaths.of(loaded.config)
    directory = paths.output_dir / RECORD
    metadata = record.read_metadata(directory)
    if not metadata:
        raise PipelineError(
            f"{directory}: no run to archive; `sft train` leaves one, `sft run` archives by itself"
        )
    with RunLock(paths.output_dir, "archive"):
        handle = index.open_run(
            paths.artifacts,
            config=Path(metadata.get("config_path", loaded.path)),
            run_name=paths.run_name,
            output_dir=paths.output_dir,
        )
        for file in sorted(directory.iterdir()):
            if file.name != record.METADATA:
                record.add(handle.directory, file.name, file)
        status = RunStatus(metadata.get("status", RunStatus.DIED))
        if status is RunStatus.RUNNING:  # we hold its lock, so nobody finished it
            status = RunStatus.DIED
        index.close_run(
            handle,
            status=status,
            exit_code=metadata.get("exit_code"),
            notes=notes or metadata.get("notes", ""),
            started_at=metadata.get("started_at"),
            completed_at=metadata.get("completed_at"),
            extra={key: metadata[key] for key in ("overrides", "git_commit") if key in metadata},
        )
        shutil.rmtree(directory)
    return handle.directory


def _freeze(directory: Path, run_id: str, loaded: LoadedConfig, command: Sequence[str]) -> None:
    record.freeze(
        directory,
        run_id=run_id,
        config_path=loaded.path,
        config_source=loaded.source,
        resolved=loaded.resolved(),
        overrides=loaded.overrides,
        command=command,
        project_root=PROJECT_ROOT,
    )


def _run_steps(
    loaded: LoadedConfig, paths: RunPaths, run_id: str, directory: Path, stop: StopRequests
) -> None:
    """STEP 0 to 2, then the results into config.yaml, however it ended."""
    started_at = utc_now()
    launch = plan_launch(loaded.config, paths, run_id)
    earlier = TrainerStatus.read(paths.output_dir)

    def close(ending: Ending) -> None:
        described = {
            "id": run_id,
            "status": ending.status.value,
            "exit_code": int(ending.exit_code),
            "started_at": started_at,
            "completed_at": utc_now(),
            "overrides": list(loaded.overrides),
            "notes": ending.notes,
        }
        output = collect_output(
            paths,
            run=described,
            training_log=launch.log_file,
            status=TrainerStatus.read(paths.output_dir).since(earlier),
        )
        written = write_back(loaded.path, paths, output)
        record.add(directory, "output.json", json.dumps(output, indent=2).encode())
        logger.info("results -> %s", written)

    with ending_recorded(close):
        _check_before_start(loaded, paths)
        _data_and_training(loaded, paths, launch, run_id, directory, stop)


def _check_before_start(loaded: LoadedConfig, paths: RunPaths) -> None:
    """What would only come to light after the conversion, for those who start without dry run."""
    training = loaded.config.runtime_info.input.training
    training_values(loaded.config, paths, model=model_path(loaded.config, paths, build=False))
    check_output_dir(
        paths.output_dir,
        overwrite=training.overwrite_output_dir,
        resuming=bool(training.resume_from_checkpoint),
    )


def _data_and_training(
    loaded: LoadedConfig,
    paths: RunPaths,
    launch: Launch,
    run_id: str,
    directory: Path,
    stop: StopRequests,
) -> None:
    # Nobody replaces the data before its tokens and hashes are taken.
    with _data_lock(paths, stop):
        data_file = prepare_data(loaded.config, paths, stop, register=True)
        stop.check()
        model = model_path(loaded.config, paths, build=True)
        values = training_values(loaded.config, paths, model=model)
        files = [data_file]
        if loaded.config.runtime_info.input.infrastructure.engine == "native":
            with stop.interruptible():
                values["tokenized_path"] = str(tokenize(values))
                values = decided(loaded.config, values)
            files += dataset_files(values)
        record.add(directory, "datasets.json", _dataset_hashes(paths, files))
    write_text(launch.train_yaml, render_train_yaml(values, loaded.path))
    record.add(directory, "train.yaml", launch.train_yaml)
    if values.get("deepspeed"):
        record.add(directory, "deepspeed.json", Path(values["deepspeed"]))
    record.add(directory, "train_command.json", json.dumps(launch.argv, indent=2).encode())
    logger.info("step 2: %s", shlex.join(launch.argv))
    train(loaded, paths, launch, run_id, stop)
    logger.info("step 2: done -> %s", paths.output_dir)


@contextmanager
def _data_lock(paths: RunPaths, stop: StopRequests) -> Iterator[None]:
    """Two runs that share a data_name convert it one after the other."""
    lock = filelock.FileLock(paths.artifacts / "locks" / f"data-{paths.data_name}.lock")
    lock_file = Path(lock.lock_file)
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("waiting for another run that prepares %s", paths.data_name)
        with stop.interruptible():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _dataset_hashes(paths: RunPaths, files: list[Path]) -> bytes:
    files = [*files, paths.im_file, paths.dataset_dir / "dataset_info.json"]
    hashes = {
        str(file): {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
        for file in files
        if file.is_file()
    }
    return json.dumps(hashes, indent=2).encode()
