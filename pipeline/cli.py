"""The `sft` command: parse, call one function, turn errors into exit codes.

Every command reads the config named by --config, else by the environment variable SFT_CONFIG, else
config.yaml in the project root, and takes `key=value` overrides. Heavy imports happen inside the
commands, so that `sft --help` and a config error answer at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ConfigError, ExitCode, PipelineError, explain_os_error

app = typer.Typer(
    name="sft",
    help="From raw coding-agent trajectories to a fine-tuned model, driven by config.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(
    help="Check, show and describe config.yaml.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="SFT_CONFIG", help="Config file [default: config.yaml]."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. training.max_steps=5."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point of the console command."""
    from pipeline.log import configure_logging

    configure_logging()
    try:
        app()
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        sys.exit(int(ExitCode.INTERRUPTED))
    except OSError as error:
        # The disk is full, a directory is not writable: the user's to mend, not a bug.
        sys.stderr.write(f"error: {explain_os_error(error)}\n")
        sys.exit(int(ExitCode.FAILED))


@app.command()
def run(overrides: Overrides = None, config: ConfigOption = None) -> None:
    """Dry run, STEP 0 to 2, results into config.yaml, archive (scripts/start.sh)."""
    from pipeline.runs.session import run as run_all

    run_all(_load(config, overrides), sys.argv, _show)


@app.command()
def train(overrides: Overrides = None, config: ConfigOption = None) -> None:
    """STEP 0 to 2 and results into config.yaml, without dry run and archive (scripts/train.sh)."""
    from pipeline.runs.session import run_without_archive

    run_without_archive(_load(config, overrides), sys.argv)


@app.command()
def prep(
    overrides: Overrides = None,
    config: ConfigOption = None,
    register: Annotated[bool, typer.Option(help="Also run STEP 1.")] = False,
) -> None:
    """STEP 0 only: convert the trajectories (scripts/dataprep.sh)."""
    from pipeline.runs.session import prepare

    prepare(_load(config, overrides), register=register)


@app.command()
def dryrun(
    overrides: Overrides = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Check everything that can be known before a run; changes nothing (scripts/dryrun.sh)."""
    from pipeline.launch.signals import StopRequests
    from pipeline.preflight import run_checks

    loaded = _load(config, overrides)
    with StopRequests() as stop:
        # An exception, unlike a signal's default, lets temporary files go.
        with stop.interruptible():
            report = run_checks(loaded)
        stop.check()
    if as_json:
        typer.echo(report.to_json())
    else:
        _show(report, to_stderr=False)
    if report.failures:
        raise typer.Exit(int(ExitCode.REFUSED))


@app.command()
def archive(
    overrides: Overrides = None,
    config: ConfigOption = None,
    notes: Annotated[str, typer.Option(help="Kept with the run.")] = "",
) -> None:
    """Archive the last `sft train` of this config (scripts/archive_run.sh)."""
    from pipeline.runs.session import archive_last

    typer.echo(str(archive_last(_load(config, overrides), notes)))


@app.command()
def clean(
    config: ConfigOption = None,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Remove runs and data.")] = False,
    repo_cache: Annotated[
        bool, typer.Option("--repo-cache", help="Remove artifacts/cache.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
) -> None:
    """Remove __pycache__; with options also what was generated (scripts/clean.sh)."""
    from pipeline.paths import PROJECT_ROOT, RunPaths
    from pipeline.runs.clean import apply, plan_clean

    plan = plan_clean(
        PROJECT_ROOT,
        RunPaths.of(_load(config, None).config).artifacts,
        pycache=True,
        artifacts_too=artifacts,
        repo_cache=repo_cache,
    )
    for path, why in plan.kept_because.items():
        typer.echo(f"keep    {path} ({why})")
    for path in plan.paths:
        typer.echo(f"remove  {path} ({plan.sizes[path] / 1e6:.1f} MB)")
    if dry_run or not plan.paths:
        typer.echo(f"{plan.total_bytes / 1e6:.1f} MB could be freed; nothing was removed")
        return
    if (artifacts or repo_cache) and not yes:
        if not sys.stdin.isatty():
            raise ConfigError("clean: not asked for by a person; add --yes to remove all this")
        typer.confirm("Remove all this?", abort=True)
    typer.echo(f"freed {apply(plan) / 1e6:.1f} MB")


@app.command()
def score(
    im_file: Annotated[Path, typer.Argument(metavar="IM", help="IM JSONL.")],
    out: Annotated[Path | None, typer.Option(help="Write there instead of in place.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score every trajectory of an IM file, replacing earlier scores."""
    import json

    from pipeline.inspect.rescore import rescore
    from pipeline.inspect.statistics import distribution_lines

    report = rescore(im_file, out)
    for error in report.errors:
        sys.stderr.write(f"warning: {error}; kept as it is\n")
    if as_json:
        typer.echo(json.dumps(report.to_record(), indent=2, ensure_ascii=False))
        return
    scored = f"{report.num_scored:,} of {report.num_rows:,} trajectories scored"
    typer.echo("\n".join(distribution_lines(scored, report.distributions)))
    typer.echo(f"-> {report.out}; next: sft stats {report.out}")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="IM or LLaMA-Factory file.")],
    row: Annotated[int | None, typer.Option(min=1, help="Show this row, from 1.")] = None,
    trial: Annotated[str, typer.Option(help="Show all rows of this trial or task.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Fold nothing.")] = False,
) -> None:
    """Show one trajectory in the terminal, or list all."""
    import io

    from rich.console import Console

    from pipeline.inspect.rows import find_rows, iter_rows
    from pipeline.inspect.terminal import list_rows, show_trajectory

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may not know every character
    console = Console(highlight=False)
    if row is None and not trial:
        list_rows(console, iter_rows(file))
        return
    for found in find_rows(file, row, trial):
        show_trajectory(console, found, full=full)


@app.command()
def stats(
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="A file, or a data name in artifacts.")
    ] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw this PNG.")] = None,
) -> None:
    """Distributions of a data file by scaffold and repository, and why trials were dropped."""
    import json

    from pipeline.inspect.statistics import gather

    found = gather(_data_file(data, config))
    if plot:
        from pipeline.inspect.plot import plot_statistics

        plot_statistics(found, plot)
    for bad in found.bad_rows:
        sys.stderr.write(f"warning: {found.file}:{bad.number}: {bad.message}\n")
    if as_json:
        typer.echo(json.dumps(found.to_record(), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(found.lines()))


@app.command()
def convert(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...")],
    im: Annotated[Path, typer.Option(help="IM JSONL to write.")],
    lf: Annotated[Path, typer.Option(help="LLaMA-Factory JSON to write.")],
    rejected: Annotated[Path, typer.Option(help="JSONL of what was not kept, and why.")],
    scaffold: Annotated[str, typer.Option(help="The format; auto: by content.")] = "auto",
    status: Annotated[str, typer.Option(help="resolved, unresolved or all.")] = "resolved",
    exclude_repos: Annotated[
        str, typer.Option(help='Repositories to leave out, one per line; "": none.')
    ] = "training_config/excluded_repos.txt",
    as_json: JsonOption = False,
) -> None:
    """Convert Harbor jobs, directories and files of trajectories, without a config."""
    import json
    import time

    from pipeline.config.shipped import resolve_shipped
    from pipeline.conversion.trials import read_status
    from pipeline.conversion.without_config import convert_sources
    from pipeline.conversion.writer import DataFiles
    from pipeline.progress import show_progress
    from pipeline.scaffolds import check_name

    _keep_apart(sources, {"--im": im, "--lf": lf, "--rejected": rejected})
    started = time.monotonic()
    with show_progress("convert", "trials") as progress:
        tally, notes = convert_sources(
            sources,
            DataFiles(im, lf, rejected),
            check_name(scaffold),
            read_status(status),
            resolve_shipped(exclude_repos)[0] if exclude_repos else None,
            progress,
        )
    for note in notes:
        typer.echo(note, err=True)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        typer.echo(json.dumps(tally.summary() | {"seconds": seconds}))
    else:
        kept = f"{im}, {lf}; next: sft inspect {im}" if tally.num_kept else f"see {rejected}"
        typer.echo(f"{tally.line()} -> {kept}")


@app.command()
def sharegpt(
    im: Annotated[Path, typer.Argument(metavar="IM")],
    lf: Annotated[Path, typer.Option(help="LLaMA-Factory JSON to write.")],
) -> None:
    """Write the examples of an IM file that was edited or filtered."""
    from pipeline.conversion.from_im import im_to_lf

    _keep_apart([im], {"--lf": lf})
    typer.echo(
        f"{im_to_lf(im, lf):,} examples -> {lf}; next: set source.type to local_lf and "
        "source.lf_path to this file"
    )


@app.command()
def version() -> None:
    """Print the version."""
    from pipeline import __version__

    typer.echo(__version__)


@config_app.command("check")
def config_check(overrides: Overrides = None, config: ConfigOption = None) -> None:
    """Say whether config.yaml is valid; all errors at once, with positions."""
    loaded = _load(config, overrides)
    for key, line, why in loaded.ignored:
        sys.stderr.write(f"{loaded.path.name}:{line}: {key} is ignored: {why}\n")
    typer.echo(f"{loaded.path}: valid; next: sft dryrun")


@config_app.command("show")
def config_show(
    overrides: Overrides = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Print the config with every default filled in."""
    import json

    import yaml

    resolved = _load(config, overrides).resolved()
    if as_json:
        typer.echo(json.dumps(resolved, indent=2, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of config.yaml (config.schema.json)."""
    from pipeline.config.json_schema import schema_text

    typer.echo(schema_text(), nl=False)


def _load(config: Path | None, overrides: list[str] | None):
    from pipeline.config import load_config
    from pipeline.paths import PROJECT_ROOT

    return load_config(config or PROJECT_ROOT / "config.yaml", overrides or ())


def _keep_apart(sources: list[Path], outputs: dict[str, Path]) -> None:
    """Raises: ConfigError: an output would replace a source, or another output."""
    taken = {source.resolve(): f"the source {source}" for source in sources}
    for option, output in outputs.items():
        target = output.resolve()
        for place in (target, *target.parents):
            if place in taken:
                where = "is" if place == target else "lies in"
                raise ConfigError(f"{option}: {output} {where} {taken[place]}; choose another file")
        taken[target] = f"the file of {option}"


def _data_file(data: str, config: Path | None) -> Path:
    """A file as it is; a data name, or none, as the IM file that STEP 0 writes for it."""
    from pipeline.paths import RunPaths

    if data and (Path(data).exists() or "/" in data):
        return Path(data)
    overrides = [f"conversion.data_name={data}"] if data else None
    return RunPaths.of(_load(config, overrides).config).im_file


def _show(report, *, to_stderr: bool = True) -> None:
    for check in report.checks:
        typer.echo(check.line(), err=to_stderr)
    typer.echo(f"dry run: {report.summary()}", err=to_stderr)


if __name__ == "__main__":
    main()
