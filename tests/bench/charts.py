"""The figures as charts, PNG: rates, memory, growth, and where the time goes."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tests.bench import page
from tests.bench.measure import OURS, Result
from tests.bench.parts import C_LOOP, HAND, LIMIT, TRICKS
from tests.bench.profile import PLACES

NAMES = {way: name.strip("`") for way, name in page.NAMES.items()}
COLOURS = {OURS: "#0b6e99", TRICKS: "#d9822b", HAND: "#e7b98a", C_LOOP: "#5f6b76", LIMIT: "#a9b1b8"}
OTHER_SYSTEM = "#a678a8"
STAGES = ("#8fb8cc", "#4f93b3", "#e7b98a", "#d9822b", "#b7c08f", "#8a9a5b", "#5f6b76", "#b03a48")
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.edgecolor": "#888888", "axes.labelcolor": "#333333",
    "xtick.color": "#555555", "ytick.color": "#333333", "figure.dpi": 150, "legend.frameon": False,
}  # fmt: skip
_GRID = {"color": "#eeeeee", "lw": 0.8, "zorder": 0}


def draw(results: list[Result], folder: Path) -> list[str]:
    """Every chart that there are figures for; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    with mpl.rc_context(STYLE):
        for chart in (rates, memory, growth, profile):
            figure = chart(results)
            if figure is not None:
                names.append(f"performance-{chart.__name__}.png")
                figure.savefig(folder / names[-1], bbox_inches="tight")
                plt.close(figure)
    return names


def rates(results: list[Result]) -> Figure | None:
    """Records a second of every way, fastest first: the median, and a line from the slowest to the fastest round."""
    works = list(dict.fromkeys(result.name for result in results if result.part == "read" and result.runs.get(OURS)))
    if not works:
        return None
    figure, axes = plt.subplots(1, len(works), figsize=(5 * len(works), 3.2), squeeze=False, layout="constrained")
    for axis, work in zip(axes[0], works, strict=True):
        values: dict[str, list[float]] = {}
        for result in (result for result in results if result.part in ("read", "peers") and result.name == work):
            for way in filter(result.runs.get, result.runs):
                values.setdefault(way, result.values(way))
        middles = {way: median(found) for way, found in values.items()}
        for row, way in enumerate(sorted(middles, key=middles.__getitem__)):
            colour = COLOURS.get(way, OTHER_SYSTEM)
            axis.plot([min(values[way]), max(values[way])], [row, row], color=colour, lw=2, alpha=0.5)
            axis.plot(middles[way], row, "o", color=colour, ms=9 if way == OURS else 7)
            axis.annotate(page.rate(middles[way]), (max(values[way]), row), (9, 0), textcoords="offset points",
                          va="center", fontsize=9, weight="bold" if way == OURS else "normal")  # fmt: skip
        axis.set_yticks(range(len(middles)), [NAMES[way] for way in sorted(middles, key=middles.__getitem__)])
        axis.set(xscale="log", title=f"{work} records", xlabel="records a second")
        axis.set_xlim(min(map(min, values.values())) / 1.5, max(map(max, values.values())) * 5)
        _tick(axis.xaxis, [10.0**power for power in range(3, 9)], axis.get_xlim())
        axis.tick_params(axis="y", length=0)
        axis.grid(**_GRID)
    return figure


def memory(results: list[Result]) -> Figure | None:
    """Peak over size of the data, and what is allowed."""
    works = page.memory_works(results)
    if not works:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    most = max(result.median(OURS, "data_mb") for result in works) * 1.1
    for name, times, besides in (("allowed", page.ALLOWED_TIMES, page.ALLOWED_MB), ("the data", 1, 0)):
        axis.plot([0, most], [besides, times * most + besides], "--" if besides else "-", color="#999999", lw=1.2)
        axis.annotate(name, (most, times * most + besides), (5, 0), textcoords="offset points", va="center",
                      fontsize=9, color="#666666", annotation_clip=False)  # fmt: skip
    for way, marker in ((TRICKS, "D"), (OURS, "o")):
        shown = [result for result in works if result.runs.get(way)]
        data = [result.median(way, "data_mb") for result in shown]
        peaks = [max(result.values(way, "peak_mb")) for result in shown]
        axis.scatter(data, peaks, c=COLOURS[way], s=34, marker=marker, label=NAMES[way], zorder=3)
    axis.set(title="Peak of memory above the imports", xlabel="data, MB", ylabel="peak, MB")
    axis.set(xlim=(0, most), ylim=(0, None))
    axis.legend(loc="upper left")
    return figure


def growth(results: list[Result]) -> Figure | None:
    """How rates change with the size of a record, the number of records, of partitions and of readers."""
    panels = [
        ("sizes", "size", "Rate by size", "bytes of a record", "records a second"),
        ("sizes", "size", "Data rate by size", "bytes of a record", "MB a second"),
        ("records", "records", "By number of records", "records of 100 B", "records a second"),
        ("partitions", "partitions", "By partitions", "partitions, 100 B", "records a second"),
        ("readers", "readers", "By readers", "readers side by side", "records a second"),
    ]
    works = {
        part: [result for result in results if result.part == part and result.runs.get(OURS)] for part, *_ in panels
    }
    panels = [panel for panel in panels if works[panel[0]]]
    if not panels:
        return None
    rows = -(-len(panels) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(10.5, 3.1 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (part, fact, title, across, up) in zip(axes.flat, panels, strict=False):
        factor = (lambda result: result.facts["size"] / 1e6) if up.startswith("MB") else (lambda _: 1.0)
        _lines(axis, works[part], fact, factor)
        axis.set(title=title, xlabel=across, ylabel=up)
        if part == "sizes":
            axis.set_yscale("log")
            _tick(axis.yaxis, [step * 10.0**power for power in range(-1, 8) for step in (1, 3)], axis.get_ylim())
        else:
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes[0][0].legend(loc="lower left", fontsize=9)
    return figure


def _lines(axis: Axes, works: list[Result], fact: str, factor: Callable[[Result], float]) -> None:
    """A line a way, or a line a topic where only ours is measured."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for result in works:
        topic = result.facts.get("topic", "")
        for way in filter(result.runs.get, result.runs):
            lines[way, topic].append((result.facts[fact], result.median(way) * factor(result)))
    for (way, topic), points in lines.items():
        across, up = zip(*points, strict=True)
        width, layer = (2.2, 3) if way == OURS else (1.5, 2)
        axis.plot(across, up, "o-", color=COLOURS[way], ms=4, lw=width, label=NAMES[way], zorder=layer)
        end = across[-1], up[-1]
        axis.annotate(topic, end, (-5, 5), textcoords="offset points", ha="right", fontsize=8, color="#555555")
    axis.set_xscale("log")
    _tick(axis.xaxis, sorted({result.facts[fact] for result in works}))
    axis.tick_params(labelsize=8.5)
    axis.grid(axis="y", **_GRID)


def profile(results: list[Result]) -> Figure | None:
    """Nanoseconds of processor time a record, stacked."""
    bars = [
        (f"{NAMES[way]}, {result.name}", runs[0]["nanoseconds"])
        for result in results if result.part == "profile" for way, runs in result.runs.items() if runs
    ][::-1]  # fmt: skip
    if not bars:
        return None
    figure, axis = plt.subplots(figsize=(10.5, 0.42 * len(bars) + 1.3), layout="constrained")
    left = [0.0] * len(bars)
    for name, colour in zip(PLACES, STAGES, strict=True):
        widths = [found.get(name, 0.0) for _, found in bars]
        axis.barh([label for label, _ in bars], widths, left=left, color=colour, label=name, height=0.72)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set(title="Processor time a record", xlabel="nanoseconds")
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return figure


def _tick(axis: Axis, places: list[float], within: tuple[float, float] = (0, float("inf"))) -> None:
    shown = [place for place in places if within[0] <= place <= within[1]]
    axis.set_ticks(shown, [_short(place) for place in shown])
    axis.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    """A tick: 1k, 20M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
