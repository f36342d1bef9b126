"""training_loss.png."""

from pathlib import Path

from pipeline.files import atomic_open


def plot_loss(losses: list[tuple[int, float]], file: Path) -> None:
    """Loss over steps, as logged and smoothed (exponential moving average, weight 0.9)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    steps = [step for step, _ in losses]
    values = [loss for _, loss in losses]
    smoothed: list[float] = []
    for value in values:
        smoothed.append(0.9 * smoothed[-1] + 0.1 * value if smoothed else value)
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.plot(steps, values, alpha=0.4, label="as logged")
    axes.plot(steps, smoothed, label="smoothed")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("training loss")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_open(file) as target:
        figure.savefig(target, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
