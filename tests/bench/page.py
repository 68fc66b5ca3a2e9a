"""The figures as Markdown, and their place between the markers of a page."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from tests.bench.measure import OURS, Result
from tests.bench.parts import C_LOOP, HAND, LIMIT, TRICKS
from tests.bench.profile import PLACES

BEGIN, END = "<!-- measurements: begin -->", "<!-- measurements: end -->"
ALLOWED_TIMES, ALLOWED_MB = 1.15, 200.0  # of memory: times the data, and megabytes besides
NAMES = {
    OURS: "kafkapipes", HAND: "by hand", TRICKS: "by hand, every trick", C_LOOP: "C loop", LIMIT: "bare Fetch protocol",
    "kafka-python loop": "kafka-python loop", "ray": "`ray.data.read_kafka`", "daft": "`daft.read_kafka`",
}  # fmt: skip
FAILED = "failed"
Rows = Iterable[Sequence[str]]


def insert(page: Path, text: str) -> None:
    """Write the text between the markers of a page."""
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def markdown(setting: dict[str, str], results: list[Result], images: Iterable[str] = ()) -> str:
    """All tables that there are figures for, each below its chart."""
    shown = {Path(image).stem.removeprefix("performance-"): image for image in images}
    rounds: dict[int, list[str]] = {}
    for part in dict.fromkeys(result.part for result in results):
        most = max(len(runs) for result in results if result.part == part for runs in result.runs.values())
        rounds.setdefault(most, []).append(part)
    told = "; ".join(f"{count} ({', '.join(parts)})" for count, parts in rounds.items())
    clients = sorted({run.get("client", "") for result in results for run in result.runs.get(OURS, [])} - {""})
    setting = {**setting, "client of kafkapipes": ", ".join(clients), "rounds": told}
    sections = [
        ("Setting", "", table(("", ""), setting.items())),
        ("Against others", "rates", compared(results)),
        ("The limit", "", limits(results)),
        ("Memory", "memory", memory(results)),
        ("How the cost grows", "growth", growth(results)),
        ("Streams", "", streamed(results)),
        ("What the options change", "", tuned(results)),
        ("Where the time goes", "profile", profiled(results)),
        ("Not measured", "", failures(results)),
    ]
    lines = []
    for heading, image, text in sections:
        if text:
            picture = [f"![{heading}](images/{shown[image]})", ""] if image in shown else []
            lines += [f"### {heading}", "", *picture, text, ""]
    return "\n".join(lines).strip()


def table(head: Sequence[str], rows: Rows) -> str:
    cells = [tuple(head), ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def compared(results: list[Result]) -> str:
    """A row for each opponent that a figure is wanted against, and what falls short in words."""
    rows = [_compared(result, opponent) for result in results for opponent in result.wanted]
    if not rows:
        return ""
    head = ("work", "opponent", "ours", "theirs", "median ratio", "from … to", "best to best", "wanted", "met")
    short = [f"{row[0]} against {row[1]}" for row in rows if row[-1] not in ("yes", FAILED)]
    words = f"Not met: {'; '.join(short)}." if short else "What was measured is met, by the median and by the best."
    loops = [
        f"{result.median(C_LOOP) / max(result.median(way) for way in (HAND, TRICKS)):.2f} times on {result.name}"
        for result in results if all(result.runs.get(way) for way in (C_LOOP, HAND, TRICKS))
    ]  # fmt: skip
    words += f" The C loop itself is as fast as the better loop by hand {', '.join(loops)}." if loops else ""
    return f"{table(head, rows)}\n\n{words}"


def _compared(result: Result, opponent: str) -> tuple[str, ...]:
    wanted, name = result.wanted[opponent], NAMES.get(opponent, opponent)
    for way in (OURS, opponent):
        if way in result.failed:
            return result.name, name, *[""] * 5, f"{wanted:g}", FAILED
    ratios, best = result.ratios(opponent), result.best_ratio(opponent)
    met = {(True, True): "yes", (True, False): "by the median", (False, True): "by the best"}
    return (
        result.name, name, rate(result.median(OURS)), rate(result.median(opponent)), f"{median(ratios):.2f}",
        f"{min(ratios):.2f} … {max(ratios):.2f}", f"{best:.2f}", f"{wanted:g}",
        met.get((median(ratios) >= wanted, best >= wanted), "no"),
    )  # fmt: skip


def limits(results: list[Result]) -> str:
    """Each way's share of what the protocol can do at all."""
    rows, ways = [], (OURS, C_LOOP, TRICKS, HAND)
    for result in results:
        if result.runs.get(LIMIT):
            most, *others = (max(result.values(way), default=0) for way in (LIMIT, *ways))
            rows.append((result.name, rate(most), *(f"{rate(best)}, {best / most:.0%}" for best in others)))
    names = (NAMES[way] for way in (LIMIT, *ways))
    return table(("best rates, and their share of the limit", *names), rows) if rows else ""


def memory(results: list[Result]) -> str:
    """The most memory in use above that of the imports, in megabytes, where there are many of them."""
    head = ("work", "data", "peak", "allowed", "met", NAMES[TRICKS])
    rows = []
    for result in memory_works(results):
        data, peak = result.median(OURS, "data_mb"), max(result.values(OURS, "peak_mb"))
        allowed = ALLOWED_TIMES * data + ALLOWED_MB
        hand = max(result.values(TRICKS, "peak_mb"), default=0)
        numbers = (f"{value:,.0f} MB" for value in (data, peak, allowed))
        rows.append((result.name, *numbers, "yes" if peak <= allowed else "no", f"{hand:,.0f} MB" if hand else ""))
    return table(head, rows) if rows else ""


def memory_works(results: list[Result]) -> list[Result]:
    """The works whose memory is told: all of more than some megabytes."""
    parts = ("read", "shapes", "records")
    return [
        result for result in results
        if result.part in parts and result.runs.get(OURS) and result.median(OURS, "data_mb") >= 20
    ]  # fmt: skip


def growth(results: list[Result]) -> str:
    """A table for each row of works."""
    titles = {
        "sizes": "Records of growing size:", "records": "Ten times the records:",
        "partitions": "More partitions, the same records:", "readers": "More readers side by side:",
    }  # fmt: skip
    tables = []
    for part, title in titles.items():
        found = [result for result in results if result.part == part and result.runs.get(OURS)]
        if found:
            tables += [title, "", table(_growth_head(found), [_growth_row(result) for result in found]), ""]
    return "\n".join(tables).strip()


def _growth_head(results: list[Result]) -> tuple[str, ...]:
    others = [f"ratio to {NAMES[way]}" for way in results[0].runs if way != OURS]
    return ("records", "seconds", "rate", "data rate", *others)


def _growth_row(result: Result) -> tuple[str, ...]:
    seconds, data = result.median(OURS, "seconds"), result.median(OURS, "data_mb")
    ratios = [_quotient(result.median(OURS), result.median(way)) for way in result.runs if way != OURS]
    return result.name, f"{seconds:.2f}", rate(result.median(OURS)), f"{data / seconds:,.0f} MB/s", *ratios


def streamed(results: list[Result]) -> str:
    """Every way of the works on streams, and its rate over that of the first."""
    rows = [
        (result.name, NAMES.get(way, way), rate(result.median(way)), _quotient(result.median(way), result.median(OURS)))
        for result in results if result.part == "streaming" for way in result.runs if result.runs[way]
    ]  # fmt: skip
    return table(("work", "way", "median rate", "over ours"), rows) if rows else ""


def tuned(results: list[Result]) -> str:
    """Rates with an option, over the rate without, by the medians."""
    works = [result for result in results if result.part == "tuning" and result.runs.get(OURS)]
    if not works:
        return ""
    rows = [
        (way, *(_quotient(result.median(way), result.median(OURS)) for result in works))
        for way in works[0].runs if way != OURS
    ]  # fmt: skip
    return table(("option", *(f"{result.name}: rate over the default's" for result in works)), rows)


def profiled(results: list[Result]) -> str:
    """Nanoseconds of processor time a record."""
    columns = [
        (f"{NAMES[way]}, {result.name}", runs[0]["nanoseconds"])
        for result in results if result.part == "profile" for way, runs in result.runs.items() if runs
    ]  # fmt: skip
    if not columns:
        return ""
    rows = [(name, *(f"{found.get(name, 0):,.0f}" for _, found in columns)) for name in PLACES]
    rows.append(("together", *(f"{sum(found.values()):,.0f}" for _, found in columns)))
    return table(("nanoseconds a record", *(name for name, _ in columns)), rows)


def failures(results: list[Result]) -> str:
    """Every way that failed, and why."""
    lines = []
    for result in results:
        reasons: dict[str, list[str]] = {}
        for way, reason in result.failed.items():
            reasons.setdefault(reason, []).append(way)
        for reason, ways in reasons.items():
            who = "all ways" if len(ways) == len(result.runs) else " and ".join(ways)
            lines.append(f"- {result.part}, {result.name}, {who}: {reason}")
    return "\n".join(lines)


def _quotient(above: float, below: float) -> str:
    """A ratio, or nothing where one of the two was not measured."""
    return "" if math.isnan(above / below) else f"{above / below:.2f}"


def rate(records: float) -> str:
    """Records a second, short: 1.23 M/s."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if records >= size:
            return f"{records / size:.3g} {unit}/s"
    return f"{records:.3g}/s"
