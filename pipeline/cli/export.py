"""`sft export` and `sft sharegpt`: data for other trainers, models for servers."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.base import (
    ConfigOption,
    JsonOption,
    app,
    keep_apart,
    load_config_of,
    tokenizer_of,
)
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.export.export import ExportReport
    from pipeline.export.targets import Target


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="SOURCE")],
    to: Annotated[
        str, typer.Option(help="lf, lf-rendered, openai, trl, ms-swift, axolotl, verl or model.")
    ],
    out: Annotated[Path, typer.Option(help="File to write; model: new directory.")],
    model: Annotated[
        str,
        typer.Option(
            help="lf-rendered, verl: whose chat template [default: the config's model]; "
            "model: what the adapter is merged into [default: what it was trained on]."
        ),
    ] = "",
    max_shard_size: Annotated[
        str, typer.Option(help="model: largest safetensors file, e.g. 500MB.")
    ] = "5GB",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="model: run Python code of the model.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an IM file as another trainer reads it, or a trained model as servers load it."""
    import json
    import time

    from pipeline.export.targets import MODEL

    started = time.monotonic()
    if to == MODEL:
        record, line = _export_model(source, out, model, max_shard_size, trust_remote_code)
    else:
        record, line = _export_data(source, to, out, model, config, quiet=as_json)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        line = json.dumps({"to": to, "out": str(out), "seconds": seconds} | record)
    typer.echo(line)


def _export_data(
    im: Path, to: str, out: Path, model: str, config: Path | None, *, quiet: bool
) -> tuple[dict[str, Any], str]:
    """Returns: what was done, for programs and as one line."""
    from pipeline.export.export import export_im
    from pipeline.export.targets import find_target

    target = find_target(to)
    if out.suffix != target.suffix:
        raise ConfigError(
            f"--out: {out}: the loader of {to} goes by the suffix; name it *{target.suffix}"
        )
    if model and not target.is_rendered:
        raise ConfigError(f"--model: has no effect with --to {to}; leave it out")
    keep_apart([im], {"--out": out})
    tokenizer = None
    if target.is_rendered:
        given = load_config_of(config, None).config.runtime_info.input.model
        tokenizer = tokenizer_of(model, config).load()
        name = model or given.model_name_or_path
        typer.echo(f"rendered with the chat template of {name}", err=True)
    report = export_im(im, out, target, tokenizer)
    if not quiet:
        _echo_deviations(report)
    return report.to_record(), _line(report, out, target)


def _export_model(
    source: Path, out: Path, base: str, max_shard_size: str, trust_remote_code: bool
) -> tuple[dict[str, Any], str]:
    """Returns: what was done, for programs and as one line."""
    # Libraries that load models write to stdout, which may be JSON.
    with contextlib.redirect_stdout(sys.stderr):
        from pipeline.export.model import export_model

        report = export_model(
            source,
            out,
            base=base,
            max_shard_size=max_shard_size,
            trust_remote_code=trust_remote_code,
        )
    for adapter in report.adapters:
        typer.echo(f"merged {adapter}", err=True)
    line = (
        f"{report.num_parameters:,} parameters, {report.dtype}, in {len(report.files)} files -> "
        f"{out}; loaded again, its logits differ from the source's by at most "
        f"{report.largest_difference:.2g} (the largest is {report.largest_logit:.3g}); next: vllm "
        f"serve {out}"
    )
    return report.to_record(), line


@app.command()
def sharegpt(
    im: Annotated[Path, typer.Argument(metavar="IM")],
    lf: Annotated[Path, typer.Option(help="LLaMA-Factory JSON to write.")],
) -> None:
    """Write the examples of an IM file that was edited or filtered (sft export --to lf)."""
    from pipeline.export.export import export_im
    from pipeline.export.targets import find_target

    keep_apart([im], {"--lf": lf})
    target = find_target("lf")
    report = export_im(im, lf, target)
    _echo_deviations(report)
    typer.echo(_line(report, lf, target))


def _echo_deviations(report: "ExportReport") -> None:
    from pipeline.export.deviations import lines_of

    for line in lines_of(report.deviations):
        typer.echo(line, err=True)


def _line(report: "ExportReport", out: Path, target: "Target") -> str:
    next_step = target.next_step.replace("FILE", str(out))
    return f"{report.num_rows:,} examples -> {out}; next: {next_step}"
