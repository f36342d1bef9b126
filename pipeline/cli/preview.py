"""`sft preview`: the tokens that will train."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.base import JsonOption, app, keep_apart


@app.command()
def preview(
    train_yaml: Annotated[
        Path, typer.Argument(metavar="TRAIN.yaml", help="Training YAML, as STEP 2 writes it.")
    ],
    row: Annotated[int, typer.Option(min=1, help="Row of the dataset, from 1.")] = 1,
    dataset: Annotated[str | None, typer.Option(help="Name, where the YAML has several.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write this HTML file instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the very ids and labels that one row trains on, decoded."""
    import io
    import json

    from rich.console import Console

    from pipeline.files import atomic_open
    from pipeline.trainer.args import load_train_args
    from pipeline.trainer.preview.html import preview_html
    from pipeline.trainer.preview.preview import preview_row
    from pipeline.trainer.preview.terminal import show_preview

    if html is not None:
        keep_apart([train_yaml], {"--html": html})
    found = preview_row(load_train_args(train_yaml), row, dataset)
    if html is not None:
        with atomic_open(html) as file:
            file.write(preview_html(found).encode("utf-8", "backslashreplace"))
        typer.echo(f"row {row} -> {html}", err=as_json)
    if as_json:
        typer.echo(json.dumps(found.to_record()))
    elif html is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a locale may not know all
        show_preview(Console(highlight=False), found)
