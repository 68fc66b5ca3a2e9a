"""The scorecard itself: it leaves no case out, and counts what it is told."""

import ast
from pathlib import Path

import pytest

from tests.faults.cases import CASES, NOT_COVERED
from tests.faults.harness import Outcome, Verdict, ledger, record, sequence_of
from tests.faults.scorecard import markdown, rows

WHERE = ("t", 0, 0)


def marked_cases() -> set[int]:
    """The numbers in all `@pytest.mark.case(N)` of these tests."""
    trees = [ast.parse(path.read_text()) for path in Path(__file__).parent.glob("test_*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        node.args[0].value
        for node in calls
        if isinstance(node.func, ast.Attribute) and node.func.attr == "case" and isinstance(node.args[0], ast.Constant)
    }


def test_every_case_is_tested_or_named_as_not_covered():
    assert set(CASES) == set(range(1, 53))
    assert marked_cases() | set(NOT_COVERED) == set(CASES)
    assert not marked_cases() & set(NOT_COVERED)


def verdict_on(*delivered, truth=(0, 1, 2)):
    """The verdict on a read of sequences, offset = sequence, that ended well."""
    records = [(("t", 0, offset), record("t", 0, sequence)[0]) for offset, sequence in delivered]
    found = Verdict(1)
    found._count(Outcome("chain-0", records), ledger("t", truth))
    return found


@pytest.mark.parametrize(
    ("delivered", "counts"),
    [
        ([(0, 0), (1, 1), (2, 2)], (0, 0, 0, 0)),
        ([(0, 0), (2, 2)], (1, 0, 0, 0)),
        ([(0, 0), (1, 1), (1, 1), (2, 2)], (0, 1, 0, 0)),
        ([(0, 0), (1, 7), (2, 2)], (0, 0, 1, 0)),
        ([(0, 0), (2, 2), (1, 1)], (0, 0, 0, 1)),
        ([(0, 0), (1, 1), (2, 2), (3, 3)], (0, 0, 1, 0)),
    ],
)
def test_lost_doubled_wrong_and_disordered_records_are_counted_and_silent_if_no_error_says_so(delivered, counts):
    found = verdict_on(*delivered)

    assert (found.lost, found.duplicated, found.wrong, min(found.out_of_order, 1)) == counts
    assert (found.silent > 0) == any(counts)


def test_a_value_proves_its_topic_partition_and_sequence():
    value, key = record("t", 3, 70)

    assert sequence_of("t", 3, value) == 70
    assert key == bytes([0, 0, 0, 70])
    assert sequence_of("u", 3, value) is sequence_of("t", 2, value) is sequence_of("t", 3, value[:-1]) is None
    assert sequence_of("t", 3, value[:20] + bytes([value[20] ^ 1]) + value[21:]) is None


def test_a_verdict_refuses_a_fault_that_did_not_fire_and_a_secret_that_shows():
    with pytest.raises(AssertionError, match="not exercised"):
        Verdict(1).has_fired(0)
    with pytest.raises(AssertionError, match="a secret shows"):
        Verdict(1).complete(Outcome("chain-0", text="canary-7f3e-do-not-show"), [])


def test_the_table_has_a_row_a_case_and_names_what_did_not_run():
    verdicts = [{**Verdict(11, "chain-0", 1, error="TopicChangedError", outcomes=1).__dict__, "passed": True}] * 2

    text = markdown(rows(verdicts), verdicts)

    assert (
        "| 11 | topic deleted and made anew while it is read | chain-0 | 2 | 0 | 0 | 0 | 0 | TopicChangedError |"
        in text
    )
    assert "1 cases, 2 of 2 runs passed, 0 records lost or doubled in silence" in text
    assert "- 14, broker killed (kill -9) and restarted: did not run" in text
    assert "- 52, schema registry down, slow, wrong: kafkapipes talks to no schema registry" in text
