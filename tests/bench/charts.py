"""The figures as charts, PNG: rates, memory, growth, and where the time goes."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tests.bench.measure import OURS, Result
from tests.bench.page import ALLOWED_MB, ALLOWED_TIMES, memory_works, rate
from tests.bench.parts import C_LOOP, HAND, LIMIT, TRICKS
from tests.bench.profile import PLACES

NAMES = {
    OURS: "kafkapipes", HAND: "confluent-kafka loop", TRICKS: "the same, every trick", C_LOOP: "C loop on librdkafka",
    LIMIT: "bare Fetch protocol", "kafka-python loop": "kafka-python loop", "ray": "ray.data.read_kafka",
    "daft": "daft.read_kafka",
}  # fmt: skip
COLOURS = {OURS: "#0b6e99", TRICKS: "#d9822b", HAND: "#d9822b", C_LOOP: "#5f6b76", LIMIT: "#c3c9cf"}
OTHER = "#b58db6"
STAGES = ("#8fb8cc", "#4f93b3", "#e7b98a", "#d9822b", "#8a9a5b", "#5f6b76", "#b03a48")
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.edgecolor": "#888888", "axes.labelcolor": "#333333",
    "xtick.color": "#555555", "ytick.color": "#333333", "figure.dpi": 150, "legend.frameon": False,
}  # fmt: skip


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
    """Records a second of every way, fastest first."""
    works = dict.fromkeys(result.name for result in results if result.part == "read" and result.runs.get(OURS))
    if not works:
        return None
    figure, axes = plt.subplots(1, len(works), figsize=(5.6 * len(works), 3.4), squeeze=False, layout="constrained")
    for axis, work in zip(axes[0], works, strict=True):
        medians: dict[str, float] = {}
        for result in (result for result in results if result.part in ("read", "peers") and result.name == work):
            for way, runs in result.runs.items():
                if runs:
                    medians.setdefault(way, result.median(way))
        ways = sorted(medians, key=medians.__getitem__)
        bars = axis.barh(
            [NAMES[way] for way in ways], [medians[way] for way in ways],
            color=[COLOURS.get(way, OTHER) for way in ways], height=0.72,
        )  # fmt: skip
        axis.bar_label(bars, [rate(medians[way]) for way in ways], padding=4, fontsize=9, color="#333333")
        axis.set(xscale="log", title=f"{work} records", xlabel="records a second (logarithmic)")
        axis.set_xlim(right=max(medians.values()) * 6)
        axis.tick_params(axis="y", length=0)
    return figure


def memory(results: list[Result]) -> Figure | None:
    """Peak over size of the data, and what is allowed."""
    works = memory_works(results)
    if not works:
        return None
    figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    data = [result.median(OURS, "data_mb") for result in works]
    most = max(data) * 1.1
    axis.plot([0, most], [ALLOWED_MB, ALLOWED_TIMES * most + ALLOWED_MB], "--", color="#888888", lw=1.2)
    axis.plot([0, most], [0, most], color="#c3c9cf", lw=1.2)
    axis.annotate("allowed: 1.15 × data + 200 MB", (most, ALLOWED_TIMES * most + ALLOWED_MB), (-6, 2),
                  textcoords="offset points", ha="right", va="bottom", fontsize=9, color="#666666")  # fmt: skip
    axis.annotate("the data alone", (most, most), (-6, -16), textcoords="offset points", ha="right", fontsize=9,
                  color="#888888")  # fmt: skip
    for way in (TRICKS, OURS):
        points = [
            (result.median(OURS, "data_mb"), max(result.values(way, "peak_mb")))
            for result in works
            if result.runs.get(way)
        ]
        axis.scatter(*zip(*points, strict=True), color=COLOURS[way], s=34, label=NAMES[way], zorder=3)
    axis.set(
        title="Peak of memory above the imports", xlabel="data, MB", ylabel="peak, MB", xlim=(0, most), ylim=(0, None)
    )
    axis.legend(loc="upper left")
    return figure


def growth(results: list[Result]) -> Figure | None:
    """Rates over size, number of records, partitions and readers."""
    panels: list[tuple[str, str, str, Callable[[Result], float], str]] = [
        ("sizes", "Size of a record", "size", lambda result: result.facts["size"], "bytes"),
        ("records", "Records", "records", lambda result: result.facts["records"], "records of 100 B"),
        ("partitions", "Partitions", "partitions", lambda result: result.facts["partitions"], "partitions, 100 B"),
        ("readers", "Readers", "readers", lambda result: result.facts["readers"], "readers side by side"),
    ]
    panels = [panel for panel in panels if any(result.part == panel[0] and result.runs.get(OURS) for result in results)]
    if not panels:
        return None
    count = len(panels) + (panels[0][0] == "sizes")
    figure, axes = plt.subplots(1, count, figsize=(3.6 * count, 3.2), squeeze=False, layout="constrained")
    places = iter(axes[0])
    for part, title, _, at, label in panels:
        works = [result for result in results if result.part == part and result.runs.get(OURS)]
        _lines(next(places), works, at, "rate", f"{title}: records a second", label)
        if part == "sizes":
            _lines(next(places), works, at, "data rate", f"{title}: MB a second", label)
    axes[0][0].legend(loc="lower left", fontsize=9)
    return figure


def _lines(axis: Axes, works: list[Result], at: Callable[[Result], float], figure: str, title: str, label: str) -> None:
    for way in dict.fromkeys(way for result in works for way in result.runs):
        lines: dict[str, list[tuple[float, float]]] = {}
        for result in works:
            if result.runs.get(way):
                value = result.median(way) * (result.facts["size"] / 1e6 if figure == "data rate" else 1)
                lines.setdefault(result.name.split(",")[0] if "readers" in result.facts else "", []).append(
                    (at(result), value)
                )
        for points in lines.values():
            axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[way], ms=4, lw=2 if way == OURS else 1.5,
                      label=NAMES[way], zorder=3 if way == OURS else 2)  # fmt: skip
    axis.set(xscale="log", yscale="log", title=title, xlabel=label)
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    axis.yaxis.set_major_formatter(FuncFormatter(_short))
    axis.yaxis.set_minor_formatter(FuncFormatter(_short))
    axis.tick_params(which="both", labelsize=8)
    axis.grid(axis="y", color="#eeeeee", lw=0.8)


def profile(results: list[Result]) -> Figure | None:
    """Nanoseconds of processor time a record, stacked."""
    bars = [
        (f"{NAMES[way]}, {result.name}", runs[0]["nanoseconds"])
        for result in results if result.part == "profile" for way, runs in result.runs.items() if runs
    ][::-1]  # fmt: skip
    if not bars:
        return None
    figure, axis = plt.subplots(figsize=(9.6, 0.5 * len(bars) + 1.4), layout="constrained")
    left = [0.0] * len(bars)
    for name, colour in zip(PLACES, STAGES, strict=True):
        widths = [found.get(name, 0.0) for _, found in bars]
        axis.barh([label for label, _ in bars], widths, left=left, color=colour, label=name, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set(title="Processor time a record", xlabel="nanoseconds")
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return figure


def _short(value: float, _: object) -> str:
    """A tick: 1k, 20M; nothing for what would crowd a logarithmic axis."""
    for unit, size in (("M", 1e6), ("k", 1e3), ("", 1)):
        if value >= size:
            number = value / size
            return f"{number:g}{unit}" if f"{number:g}"[0] in "125" and number == round(number) else ""
    return f"{value:g}"
