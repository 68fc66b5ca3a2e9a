"""The pages keep up with the code: every room, name, error class and policy is on its page."""

import inspect
import re
from pathlib import Path

import pytest

import kafkapipes
from kafkapipes import (
    ByteDecoder,
    DeadLetterTopic,
    KafkaSink,
    PartitionReader,
    StreamingKafkaDataset,
    TrainingKafkaDataset,
    errors,
)
from tests.test_architecture import LADDER

ELSEWHERE = ("nodes.KafkaNode", "testing.EmbeddedKafka", "testing.assert_resumes_exactly")
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = {
    item.__name__: inspect.signature(item).parameters
    for item in (PartitionReader, ByteDecoder, TrainingKafkaDataset, StreamingKafkaDataset, KafkaSink, DeadLetterTopic)
}


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(name, heading):
    """The rows of the first table under a heading, each a list of cells; without the table's head."""
    section = page(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


def options(pattern):
    """Option → the places that take it, for the options whose name matches."""
    found = {}
    for place, parameters in PLACES.items():
        for option in filter(re.compile(pattern).fullmatch, parameters):
            found.setdefault(option, set()).add(place)
    return found


def test_the_design_page_draws_the_rooms_as_they_are():
    section = page("design.md").split("\n## Rooms\n")[1].split("```")[1]
    drawn = [line.split()[0] for line in section.splitlines() if line.split()[1:]]

    assert [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in drawn] == LADDER


def test_the_api_page_names_every_public_name():
    named = re.findall(r"auto(?:class|function|exception):: (\S+)", page("api.md"))

    assert sorted(named) == sorted([*kafkapipes.__all__, *(f"kafkapipes.{name}" for name in ELSEWHERE)])


def test_the_errors_page_has_a_row_for_every_class():
    classes = [name for name, item in vars(errors).items() if isinstance(item, type)]

    assert [code(row[0]) for row in rows("errors.md", "Classes")] == [[name] for name in classes]


def test_the_errors_page_has_every_policy_with_its_default_and_places():
    table = {code(row[0])[0]: (code(row[1])[0].strip('"'), set(code(row[2]))) for row in rows("errors.md", "Policies")}
    places = options("on_.*|tombstone|null_key|dead_letter.*|max_.*")

    assert table == {option: (str(PLACES[min(taken)][option].default), taken) for option, taken in places.items()}


def test_the_errors_page_has_every_timeout_with_its_default_and_places():
    table = {
        code(row[0])[0]: (None if row[1] == "never" else float(row[1]), set(code(row[2])))
        for row in rows("errors.md", "Timeouts")
    }
    places = options(".*_timeout_s")

    assert table == {option: (PLACES[min(taken)][option].default, taken) for option, taken in places.items()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_links_only_to_what_exists(path):
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")) if ":" not in target]

    assert all((path.parent / target.split("#")[0]).exists() for target in targets)


def test_the_first_shell_commands_of_the_readme_run_the_main_job_and_the_tests():
    fences = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    venv = "python3 -m venv .venv && . .venv/bin/activate\n"

    assert fences[:2] == [
        f"{venv}pip install -e '.[examples]'\npython examples/digits.py\n",
        f"{venv}pip install -e '.[test]'\npython -m pytest -n 2\n",
    ]
