"""Measures everything and writes the page: `python -m tests.bench [--quick] [--parts read,peers] [--redraw]`.

Figures go to docs/performance.json, and from there tables and charts into docs/performance.md, between its markers;
a quick run prints its tables and writes neither. Each way runs in a process of its own, in turn with the others.
"""

import argparse
import json
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from tests.bench.charts import draw
from tests.bench.machine import machine, versions
from tests.bench.measure import OURS, Failed, Result, Session, Work
from tests.bench.page import insert, markdown
from tests.bench.parts import PARTS
from tests.kafka.cluster import open_cluster

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
QUICK_RESULTS = ROOT / "build" / "bench" / "quick.json"


def main() -> int:
    options = _options()
    path = options.results or (QUICK_RESULTS if options.quick else DOCS / "performance.json")
    if options.redraw:
        found = json.loads(path.read_text())
    else:
        found = measure(options, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    results = [Result(**item) for item in found["results"]]
    setting = {"measured": found["date"], **found["setting"]}
    print(markdown(setting, results))
    if not options.quick:
        images = draw(results, options.page.parent / "images")
        insert(options.page, markdown(setting, results, images))
    return int(any(result.failed for result in results))


def measure(options: argparse.Namespace, path: Path) -> dict:
    """Run the parts; parts measured before on the same machine with the same versions are kept."""
    with open_cluster() as cluster:
        setting = {**machine(), **versions(cluster, options.peers)}
        session = Session(cluster, options.rounds, options.quick, options.peers, options.minutes)
        works = [work for part in options.parts for work in _planned(part, session)]
        results, runs = [], sum(session.rounds_of(work) * len(work.ways) for work in works)
        with tqdm(total=runs, unit="run") as bar, suppress(KeyboardInterrupt):  # what is there then is written
            for work in works:
                results.append(asdict(session.compare(work, bar)))
        session.close()
    kept = json.loads(path.read_text()) if path.exists() else {"setting": None}
    if kept["setting"] == setting:
        results += [result for result in kept["results"] if result["part"] not in options.parts]
    order = list(PARTS)
    results.sort(key=lambda result: order.index(result["part"]))
    return {"date": date.today().isoformat(), "setting": setting, "results": results}


def _planned(part: str, session: Session) -> list[Work]:
    """The works of a part; where it cannot even name them, one that says so."""
    try:
        return list(PARTS[part](session))
    except Exception as exc:
        reason = Failed(f"{type(exc).__name__}: {exc}")

        def fail() -> NoReturn:
            raise reason

        return [Work(part, "all", {OURS: fail})]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a trial of some minutes, with figures to match")
    parser.add_argument("--rounds", type=int, help="rounds of the main works (7; quick 2)")
    parser.add_argument("--minutes", type=float, help="after which no more is begun (60; quick 5)")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: %(default)s")
    parser.add_argument("--peers", default="build/peers/bin/python", help="a Python with tests/bench/peers.txt")
    parser.add_argument("--results", type=Path, help="the file of the figures")
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md", help="the page with the markers")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, only write the page again")
    options = parser.parse_args()
    options.parts = [part for part in options.parts.split(",") if part]
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part(s) {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options.rounds = options.rounds or (2 if options.quick else 7)
    options.minutes = options.minutes or (5 if options.quick else 60)
    return options


if __name__ == "__main__":
    sys.exit(main())
