"""Brokers for the tests: the embedded one for each test that asks, a real Apache Kafka once for all."""

import os
from collections.abc import Iterator

import pytest

from kafkapipes.testing import EmbeddedKafka
from tests.kafka.cluster import Cluster, NoKafka, OwnBroker, open_cluster

REQUIRE_VARIABLE = "KAFKAPIPES_TEST_REQUIRE_KAFKA"  # set in CI: there a missing Kafka is a failure


@pytest.fixture
def embedded() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        found = open_cluster()
    except NoKafka as exc:
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"a real Kafka is required here: {exc}")
        pytest.skip(f"no real Kafka: {exc}")
    yield found
    found.close()


@pytest.fixture
def own_broker(cluster: Cluster) -> OwnBroker:
    if not isinstance(cluster, OwnBroker):
        pytest.skip("needs a broker that the tests may reconfigure and pause")
    return cluster
