"""`sft plan`: what a training YAML will train, step by step, before it does."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.base import JsonOption, app
from pipeline.errors import ExitCode

_ROWS_SHOWN = 10
_POOR_BALANCE = 0.9

if TYPE_CHECKING:
    from pipeline.trainer.args import TrainArgs


@app.command()
def plan(
    train_yaml: Annotated[
        Path, typer.Argument(metavar="TRAIN.yaml", help="As in artifacts/training_config/.")
    ],
    world_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Ranks [default: visible accelerators, else sequence_parallel_size]."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the tensors of every example with `sft preview`."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Steps, tokens, fill and balance of a training, and the hash that its run will have."""
    import json

    from pipeline.launch.machine import accelerators
    from pipeline.launch.signals import StopRequests
    from pipeline.progress import show_progress
    from pipeline.trainer.args import load_train_args
    from pipeline.trainer.data.build import open_or_build
    from pipeline.trainer.data.plan_report import PlanQuality, report
    from pipeline.trainer.memory.memory_plan import plan_run
    from pipeline.trainer.parallel.groups import num_data_ranks
    from pipeline.trainer.peak_flops import peak_of
    from pipeline.trainer.planned_run import PlannedRun
    from pipeline.trainer.preview.check import check_tensors
    from pipeline.trainer.reporting.time_plan import TimePlan

    args = load_train_args(train_yaml)
    with StopRequests() as stop, stop.interruptible():
        with show_progress("tokenise", "rows") as shown:
            store = open_or_build(args, shown).store
        context_size = args.sequence_parallel_size
        ranks = world_size or (0 if args.use_cpu else len(accelerators())) or context_size
        data_ranks = num_data_ranks(ranks, context_size)
        planned = PlannedRun.of(args, store, data_ranks)
        found = report(planned.plan, planned.data, context_size)
        if found["balance"] < _POOR_BALANCE and args.document_order == "random":
            grouped = args.model_copy(update={"group_by_length": True})
            quality = PlanQuality.of(PlannedRun.of(grouped, store, data_ranks).plan)
            found["balance_grouped_by_length"] = quality.to_record()["balance"]
        if check:
            with show_progress("check", "examples") as shown:
                found["check"] = check_tensors(planned, shown).to_record()
        devices = [] if args.use_cpu else accelerators()
        peaks = [peak_of(device.name) for device in devices] or [None]
        time = TimePlan.of(planned, ranks, None if None in peaks else min(filter(None, peaks)))
        found["time"] = time.to_record()
        memory = plan_run(planned, ranks, on_accelerator=bool(devices))
        found["memory"] = None if memory is None else memory.to_record()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(
            "\n".join(_lines(found, planned.args, time.describe(), memory and memory.describe()))
        )
    if check and not found["check"]["is_equal"]:
        raise typer.Exit(int(ExitCode.FAILED))


def _lines(found: dict[str, Any], args: "TrainArgs", time: str, memory: str | None) -> list[str]:
    documents = "trees of examples" if args.share_prefixes else "examples"
    what = "packed sequences" if args.packs else documents
    ranks = f"{found['world_size']} ranks"
    if found["sequence_parallel_size"] > 1:
        ranks += f" ({found['sequence_parallel_size']} to a sequence)"
    lines = [
        f"plan {found['plan']}: {found['steps']:,} steps of {found['global_batch']} {what} on "
        f"{ranks}, {found['epochs']:.4g} epochs",
        f"per epoch: {found['steps_per_epoch']:,} steps, {found['sequences']:,} {what}, "
        f"{found['documents']:,} {documents}; {found['held_out']:,} more are held out",
        f"data: {found['rows']:,} rows, {found['tokens']:,} tokens, {found['trained_tokens']:,} of "
        f"them trained ({100 * found['trained_share']:.1f} %)",
        f"fill {found['fill']:.4f} | balance {found['balance']:.4f}, per micro-batch "
        f"{found['micro_balance']:.4f}",
        f"lost: {found['tokens_lost']:,} tokens by the plan; {found['turns_over_cutoff']:,} turns "
        f"and {found['rows_over_cutoff']:,} rows beyond cutoff_len; {found['rows_rejected']:,} "
        "rows that cannot be rendered",
    ]
    if len(found["datasets"]) > 1:
        shares = (
            f"{name} {share['documents']:,} {documents} ({share['tokens']:,} tokens)"
            + (f", {share['held_out']:,} held out" if share["held_out"] else "")
            for name, share in found["datasets"].items()
        )
        lines.insert(2, f"of each dataset: {'; '.join(shares)}")
    grouped = found.get("balance_grouped_by_length", 0)
    if grouped > found["balance"]:
        lines.append(
            "ranks wait for the dearest sequence of a step: training.group_by_length would give "
            f"balance {grouped:.4f}; more sequences per step help, too"
        )
    if args.share_prefixes:
        ratio = found["tokens"] / found["computed_tokens"]
        lines.append(
            f"shared prefixes: the {found['tokens']:,} tokens of {found['examples']:,} examples "
            f"are computed as {found['computed_tokens']:,}, {ratio:.1f} times fewer"
        )
    lines.append(f"time: {time}")
    if memory is not None:
        lines.append(f"memory: {memory}")
    return lines + (_check_lines(found["check"]) if "check" in found else [])


def _check_lines(check: dict[str, Any]) -> list[str]:
    rows = check["differing_rows"]
    verdict = "the same" if check["is_equal"] else f"{len(rows):,} examples differ"
    return [
        f"tensors of {check['examples']:,} examples, shown {check['preview_sha256'][:16]}, "
        f"trained {check['training_sha256'][:16]}: {verdict}",
        *(f"differs: {row}" for row in rows[:_ROWS_SHOWN]),
    ]
