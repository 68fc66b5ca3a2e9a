"""Runs the fault cases and prints the table: `python -m tests.faults.scorecard [--slow] [--markdown FILE]`.

Markdown goes between the two marker comments of FILE (docs/reliability.md).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.faults.cases import CASES, NOT_COVERED, PARTLY
from tests.faults.harness import RESULTS_VARIABLE

HEADINGS = ("case", "what happens", "ways", "fired", "lost", "doubled", "wrong", "silent", "ends in", "s", "passed")
BEGIN, END = "<!-- scorecard: begin -->", "<!-- scorecard: end -->"


def run(options: list[str]) -> tuple[list[dict], int]:
    """The verdicts of all cases, and the exit code of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.jsonl"
        path.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/faults", *options]
        code = subprocess.run(command, env={**os.environ, RESULTS_VARIABLE: str(path)}).returncode
        return [json.loads(line) for line in path.read_text().splitlines()], code


def rows(verdicts: list[dict]) -> list[tuple[str, ...]]:
    """One row a case that ran."""
    by_case = defaultdict(list)
    for verdict in verdicts:
        by_case[verdict["case"]].append(verdict)
    return [_row(number, by_case[number]) for number in sorted(by_case)]


def _row(number: int, verdicts: list[dict]) -> tuple[str, ...]:
    counted = [verdict for verdict in verdicts if verdict["outcomes"]]

    def total(name: str) -> str:
        return str(sum(verdict[name] for verdict in counted)) if counted else "-"

    passed = sum(verdict["passed"] for verdict in verdicts)
    ways = sorted({verdict["read"] for verdict in verdicts} - {""})
    errors = sorted({verdict["error"] for verdict in verdicts} - {""})
    return (
        str(number), CASES[number], ", ".join(ways), total("fired"), total("lost"), total("duplicated"),
        total("wrong"), total("silent"), ", ".join(errors) or ("complete" if counted else "what each test claims"),
        f"{max(verdict['seconds'] for verdict in verdicts):.1f}", f"{passed}/{len(verdicts)}",
    )  # fmt: skip


def markdown(table: list[tuple[str, ...]], verdicts: list[dict]) -> str:
    """The table, its sum in words, and what is not covered."""
    lines = [" | ".join(("", *line, "")).strip() for line in (HEADINGS, ("---",) * len(HEADINGS), *table)]
    counted = [verdict for verdict in verdicts if verdict["outcomes"]]
    others = [verdict for verdict in verdicts if not verdict["outcomes"]]
    silent = sum(verdict["silent"] for verdict in counted)
    missing = sorted(set(CASES) - {int(row[0]) for row in table} - set(NOT_COVERED))
    summary = f"{len(table)} cases, {_passed(counted)} runs passed, {silent} records lost or doubled in silence."
    if others:
        summary += f" Besides, {_passed(others)} tests that do their own counting passed."
    uncovered = [f"- {number}, {CASES[number]}: {reason}" for number, reason in NOT_COVERED.items()]
    uncovered += [f"- of {number}, {reason}" for number, reason in PARTLY.items()]
    uncovered += [f"- {number}, {CASES[number]}: did not run" for number in missing]
    return "\n".join([summary, "", *lines, "", "Not covered:", "", *uncovered])


def _passed(verdicts: list[dict]) -> str:
    return f"{sum(verdict['passed'] for verdict in verdicts)} of {len(verdicts)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="the cases that take minutes too")
    parser.add_argument("--markdown", type=Path, help="a page to write the table into, between its markers")
    options = parser.parse_args()
    verdicts, code = run(["-m", "slow or not slow"] if options.slow else [])
    text = markdown(rows(verdicts), verdicts)
    print(text)
    if options.markdown:
        before, rest = options.markdown.read_text().split(BEGIN)
        options.markdown.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")
    return code


if __name__ == "__main__":
    sys.exit(main())
