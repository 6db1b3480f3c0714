"""Pictures of figures: the one door to matplotlib. Draws what it is given, to bytes.

The same figures give the same bytes: no date, no random ids. A picture shows what its figures say,
and leaves the zone where they may.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from primum_pipelines.evaluation.calibration import Reliability
from primum_pipelines.evaluation.figures import Figure, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "primum",
    "svg.fonttype": "none",  # Text stays text: small files that can be searched and read aloud.
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_SIZE_INCHES = (4.2, 3.4)
_BARS_MAX = 12
_WIDE_INCHES = (7.6, 3.2)
_DOTS_PER_INCH = 160
_COLORS = ("#1b6ca8", "#c8553d", "#588157", "#7b5ea7", "#8d6a2f", "#5c5c5c")
_MARKS = ("o", "s", "^", "D", "v", "P")  # Told apart also without color.


class PictureFormat(enum.StrEnum):
    """Formats of pictures."""

    SVG = "svg"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot.

    Args:
        name: In the legend.
        x: Its x values.
        figures: Its values with intervals.
    """

    name: str
    x: Sequence[float]
    figures: Sequence[Figure]


def reliability_diagram(
    bins: Sequence[Reliability], *, picture: PictureFormat = PictureFormat.SVG
) -> bytes:
    """Share of right answers over stated confidence; the diagonal is perfect calibration."""

    def draw(axes: Axes) -> None:
        full = [item for item in bins if item.rows]
        rows = max((item.rows for item in full), default=1)
        confidence = [item.confidence for item in full]
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        axes.plot(confidence, [item.accuracy for item in full], color=_COLORS[0], marker="o")
        axes.bar(
            confidence,
            [0.25 * item.rows / rows for item in full],
            width=0.04,
            color=_COLORS[0],
            alpha=0.2,
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated confidence", ylabel="share right")

    return _drawn(draw, picture)


def roc_curves(
    curves: Mapping[str, tuple[Floats, Floats]],
    *,
    smallest: float,
    bound: Callable[[Floats], Floats] | None = None,
    picture: PictureFormat = PictureFormat.SVG,
) -> bytes:
    """True over false positive rates on logarithmic axes, beside guessing and a bound.

    Args:
        curves: ``(fpr, tpr)`` by name, each increasing.
        smallest: The smallest rate that the sample sizes resolve; axes begin there.
        bound: The largest true positive rate that a guarantee allows at false positive rates.
        picture: Format.
    """

    def draw(axes: Axes) -> None:
        grid = np.geomspace(smallest, 1.0, 200)
        axes.plot(grid, grid, color="#999999", linewidth=1, label="guessing")
        if bound is not None:
            axes.plot(grid, np.clip(bound(grid), 0, 1), "--", color="black", label="bound")
        for number, (name, (fpr, tpr)) in enumerate(curves.items()):
            seen = (fpr >= smallest) & (tpr > 0)
            color = _COLORS[number % len(_COLORS)]
            axes.plot(fpr[seen], tpr[seen], drawstyle="steps-post", color=color, label=name)
        axes.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1.05))
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(frameon=False)

    return _drawn(draw, picture)


def with_intervals(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    level: Figure | None = None,
    level_name: str = "",
    picture: PictureFormat = PictureFormat.SVG,
) -> bytes:
    """Curves with error bars over a logarithmic x axis, such as utility over epsilon.

    Args:
        curves: The lines.
        x_label: Of the x axis.
        y_label: Of the y axis.
        level: A figure that does not depend on x, such as that of a model without privacy.
        level_name: What the level is.
        picture: Format.
    """

    def draw(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level.estimate, color="#666666", linewidth=1, label=level_name)
            axes.axhspan(level.lower, level.upper, color="#666666", alpha=0.12)
        for number, curve in enumerate(curves):
            middle = np.array([item.estimate for item in curve.figures])
            below = middle - np.array([item.lower for item in curve.figures])
            above = np.array([item.upper for item in curve.figures]) - middle
            axes.errorbar(
                curve.x,
                middle,
                yerr=np.maximum(0, np.stack([below, above])),
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKS[number % len(_MARKS)],
                capsize=2,
                label=curve.name,
            )
        axes.set(xscale="log", xlabel=x_label, ylabel=y_label)
        ticks = sorted({x for curve in curves for x in curve.x})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_xticks([], minor=True)
        axes.legend(frameon=False)

    return _drawn(draw, picture)


@dataclass(frozen=True, slots=True)
class Corridor:
    """What a risk corridor shows.

    Args:
        candidates: Numbers of candidates, increasing.
        bounds: Largest success of naming the record among them, from all updates.
        named: Measured successes ``(candidates, success, lower limit)`` by attack.
        scratch: Expected correlation of the best reconstruction from scratch.
        correlations: Measured correlations by attack, and of guesses without any update.
    """

    candidates: Sequence[int]
    bounds: Sequence[float]
    named: Mapping[str, tuple[int, float, float]]
    scratch: float
    correlations: Mapping[str, float]


def corridor(found: Corridor, *, picture: PictureFormat = PictureFormat.SVG) -> bytes:
    """Identification among candidates left, reconstruction right, each beside its bound."""

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(3, 2))
        chance = [1 / count for count in found.candidates]
        left.fill_between(found.candidates, chance, found.bounds, color=_COLORS[0], alpha=0.15)
        left.plot(found.candidates, found.bounds, color=_COLORS[0], label="bound")
        left.plot(found.candidates, chance, color="#999999", label="chance")
        for number, (name, (count, success, low)) in enumerate(found.named.items(), start=1):
            color = _COLORS[number % len(_COLORS)]
            below = [[max(0.0, success - low)], [0.0]]
            left.errorbar([count], [success], yerr=below, color=color, marker="o", label=name)
        left.set(xscale="log", ylim=(0, 1), xlabel="candidates", ylabel="record named")
        left.legend(frameon=False)
        names = list(found.correlations)
        right.barh(names, [found.correlations[name] for name in names], color=_COLORS[0])
        right.axvline(found.scratch, color="black", linestyle="--", label="from scratch")
        right.set(xlim=(0, 1), xlabel="correlation with the record")
        right.legend(frameon=False)

    return _canvas(draw, picture, size=_WIDE_INCHES)


def susceptibility_view(norms: Floats, drive: Floats, *, names: Sequence[str]) -> bytes:
    """Gradient norms of units, sorted and nameless, and what drives them. PNG.

    Args:
        norms: ``(n,)``.
        drive: Mean size of their derivatives by each input, of the input's shape.
        names: Column names of a table; empty for images, whose map is shown.
    """

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2)
        left.plot(np.linspace(0, 1, len(norms)), np.sort(norms), color=_COLORS[0])
        left.set(xlabel="share of units", ylabel="gradient norm")
        if names:
            order = np.argsort(drive)[-_BARS_MAX:]
            right.barh([names[at] for at in order], drive[order], color=_COLORS[0])
            right.set(xlabel="susceptibility")
            return
        shape = drive.shape
        high = float(drive.max()) or 1.0
        right.imshow(_shown(drive.mean(axis=0), (1, *shape[1:]), 0.0, high), cmap="magma")
        right.set(xticks=[], yticks=[], title="susceptibility")
        right.grid(visible=False)

    return _canvas(draw, PictureFormat.PNG, size=_WIDE_INCHES)


def contact_sheet(
    rows: Mapping[str, Floats], *, shape: tuple[int, ...], low: float, high: float
) -> bytes:
    """Pictures under one another, such as records and their reconstructions. PNG.

    Args:
        rows: ``(n, d)`` per row of the sheet, by its title; as many pictures in each.
        shape: Of one picture ``(channels, height, width)``; of a volume its middle slice is shown.
        low: Value shown black.
        high: Value shown white.
    """
    count = max(len(values) for values in rows.values())

    def draw(canvas: Canvas) -> None:
        grid = canvas.subplots(len(rows), count, squeeze=False)
        for line, (title, values) in zip(grid, rows.items(), strict=True):
            line[0].set_ylabel(title)
            for axes, picture in zip(line, values, strict=True):
                axes.imshow(_shown(picture, shape, low, high), cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)

    return _canvas(draw, PictureFormat.PNG, size=(0.9 * count + 0.9, 0.95 * len(rows)))


def _shown(picture: Floats, shape: tuple[int, ...], low: float, high: float) -> Floats:
    values = np.clip((picture.reshape(shape) - low) / (high - low), 0, 1)
    if values.ndim == 4:  # noqa: PLR2004 - channels, depth, height, width
        values = values[:, values.shape[1] // 2]
    colored = len(values) == 3  # noqa: PLR2004 - red, green, blue
    shown: Floats = np.moveaxis(values, 0, -1) if colored else values[0]
    return shown


def _drawn(draw: Callable[[Axes], None], picture: PictureFormat) -> bytes:
    return _canvas(lambda canvas: draw(canvas.add_subplot()), picture, size=_SIZE_INCHES)


def _canvas(
    draw: Callable[[Canvas], None], picture: PictureFormat, *, size: tuple[float, float]
) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(cast("Any", _STYLE)):
        canvas = Canvas(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        draw(canvas)
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None} if picture is PictureFormat.SVG else {}
        canvas.savefig(buffer, format=picture.value, dpi=_DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()
