"""Commands between data and training: the token store."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.base import JsonOption, app


@app.command()
def tokenize(
    train_yaml: Annotated[Path, typer.Argument(metavar="TRAIN.yaml", help="A training YAML.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where [default: tokenized_path, or beside the data]."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read data and store again, though nothing changed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tokenise the data of a training YAML into its token store; only what is new."""
    import json

    from pipeline.launch.signals import StopRequests
    from pipeline.progress import show_progress
    from pipeline.trainer.args import load_train_args
    from pipeline.trainer.data.build import open_or_build

    args = load_train_args(train_yaml)
    if out is not None:
        args = args.model_copy(update={"tokenized_path": str(out.absolute())})
    with StopRequests() as stop, stop.interruptible(), show_progress("tokenise", "rows") as shown:
        report = open_or_build(args, shown, verify=verify)
    if as_json:
        typer.echo(json.dumps(report.to_record()))
        return
    typer.echo("\n".join(report.lines()))
    if out is not None:
        typer.echo(f"next: torchrun with tokenized_path: {args.tokenized_path} in {train_yaml}")
