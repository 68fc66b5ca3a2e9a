"""The random campaign, short and with a fixed seed; the long one is run by hand."""

import pytest

from tests.faults.campaign import ALONE, Schedule, draw, run, shortest

pytestmark = pytest.mark.kafka


def test_a_short_campaign_loses_doubles_and_changes_nothing(cluster):
    """Asks for the cluster only to be skipped where there is no Kafka; it starts its own."""
    assert run(minutes=2, seed=3, brokers=(1,), rounds=2) == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("brokers", [1, 3])
def test_a_longer_campaign_loses_doubles_and_changes_nothing(cluster, brokers):
    assert run(minutes=5, seed=1000, brokers=(brokers,)) == ""


def test_a_seed_draws_the_same_schedule_and_seeds_draw_every_fault():
    assert draw(5, 1) == draw(5, 1)
    assert {name for seed in range(100) for _, name in draw(seed, 1).faults} == set(ALONE)


def test_a_failing_schedule_is_shortened_to_the_faults_that_it_needs():
    schedule = Schedule(1, 1, "chain-0", "raise", ((1, "pause"), (2, "kill"), (3, "stall"), (4, "delete")))

    least = shortest(schedule, lambda one: {"kill", "delete"} <= {name for _, name in one.faults})

    assert least.faults == ((2, "kill"), (4, "delete"))
