"""The distributions of a data file as a picture."""

from pathlib import Path

from pipeline.files import atomic_open
from pipeline.inspect.figures import Figures
from pipeline.inspect.statistics import Statistics

_COLUMNS = 3
_BINS = 30


def plot_statistics(found: Statistics, file: Path) -> None:
    """One histogram per figure, stacked by scaffold, and the drop report, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [
        name
        for name in Figures.__slots__
        if any(getattr(item, name) is not None for item in found.figures)
    ]
    num_rows = -(-(len(names) + 1) // _COLUMNS)
    figure, grid = pyplot.subplots(
        num_rows, _COLUMNS, figsize=(5 * _COLUMNS, 3.5 * num_rows), squeeze=False
    )
    panels = iter(grid.flat)
    groups = sorted(found.by_scaffold.items())
    for name in names:
        axes = next(panels)
        values = [[v for i in items if (v := getattr(i, name)) is not None] for _, items in groups]
        axes.hist(values, bins=_BINS, stacked=True, label=[scaffold for scaffold, _ in groups])
        axes.set_xlabel(name.replace("_", " "))
        axes.set_ylabel("rows")
    grid.flat[0].legend(fontsize="small")
    if found.rejected and found.rejected.reasons:
        reasons = found.rejected.reasons.most_common()[::-1]
        axes = next(panels)
        axes.barh([reason for reason, _ in reasons], [count for _, count in reasons])
        axes.set_xlabel("rejected")
    for axes in panels:
        axes.axis("off")
    figure.suptitle(f"{found.file.name}: {len(found.figures):,} rows")
    figure.tight_layout()
    with atomic_open(file) as target:
        figure.savefig(target, format="png", dpi=120)
    pyplot.close(figure)
