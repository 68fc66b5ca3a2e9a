"""The verdict of each case: collected here, checked for secrets in whatever was printed or logged, and written down."""

import logging

import pytest

from tests.faults.cases import CASES
from tests.faults.harness import CANARY, QUICK, READS, Verdict

_OUTCOME = pytest.StashKey[bool]()


@pytest.fixture(params=[*QUICK, *(pytest.param(way, marks=pytest.mark.slow) for way in READS if way not in QUICK)])
def how(request) -> str:
    """Each of the four ways to read; two of them, which contain what the others do, in the quick tests."""
    return request.param


@pytest.fixture
def verdict(request, caplog, capfd) -> Verdict:
    """The verdict of the case that the test is marked with; a test that asks for it must use it."""
    caplog.set_level(logging.DEBUG)
    (number,) = request.node.get_closest_marker("case").args
    assert number in CASES
    found = Verdict(number)
    yield found
    shown = capfd.readouterr()
    hidden = CANARY not in shown.out + shown.err + caplog.text
    passed = request.node.stash.get(_OUTCOME, False)
    found.write(passed and hidden)
    assert hidden, "a secret was printed or logged"
    assert not passed or (found.outcomes and found.fired), "the verdict was not asked for, or the fault not shown"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[_OUTCOME] = report.passed
        marker = item.get_closest_marker("case")
        if marker and "verdict" not in item.fixturenames and not report.skipped:
            # The fault lies in the records, or is the claim itself: the test asserts for itself, and has no counts.
            way = item.callspec.params.get("way", "") if hasattr(item, "callspec") else ""
            Verdict(*marker.args, way, seconds=call.duration).write(report.passed)
    return report


def pytest_collection_modifyitems(items):
    # torch's own clean-up stumbles over an error that comes before its workers are started.
    ignored = pytest.mark.filterwarnings("ignore:Exception ignored in.*_MultiProcessingDataLoaderIter")
    for item in items:
        if item.get_closest_marker("case"):
            item.add_marker(ignored)
