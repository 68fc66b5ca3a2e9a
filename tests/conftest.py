"""Brokers for the tests: the embedded one for each test that asks, real Apache Kafka once for all."""

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from kafkapipes.testing import EmbeddedKafka
from tests.faults.certificates import make_certificates
from tests.faults.oracle import Oracle
from tests.kafka.cluster import QUICK_RESTART, Cluster, OwnBroker, ThreeBrokers, TlsBroker, open_cluster
from tests.kafka.fake import FakeLibrary
from tests.kafka.node import NoKafka, fetch_jars

REQUIRE_VARIABLE = "KAFKAPIPES_TEST_REQUIRE_KAFKA"  # set in CI: there a missing Kafka is a failure
Found = TypeVar("Found")


@pytest.fixture
def embedded() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> FakeLibrary:
    """A librdkafka that says what a test tells it."""
    return FakeLibrary(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with _or_skip(open_cluster) as found:
        yield found


@pytest.fixture
def own_broker(cluster: Cluster) -> OwnBroker:
    if not isinstance(cluster, OwnBroker):
        pytest.skip("needs a broker that the tests may reconfigure and pause")
    return cluster


@pytest.fixture(scope="module")
def spare_broker() -> Iterator[OwnBroker]:
    """A broker that a module may kill, and whose data it may damage."""
    with OwnBroker(_or_skip(fetch_jars), properties=QUICK_RESTART) as broker:
        yield broker


@pytest.fixture(scope="session")
def three_brokers() -> Iterator[ThreeBrokers]:
    """Three brokers for all tests: who stops one of them calls `heal` at the end."""
    with ThreeBrokers(_or_skip(fetch_jars)) as brokers:
        yield brokers


@pytest.fixture(scope="session")
def tls_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """A broker with good, expired and misplaced certificates."""
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    with TlsBroker(_or_skip(fetch_jars), certificates) as broker:
        yield broker


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    """Kafka's Java client, which tells what a range holds."""
    with _or_skip(Oracle) as told:
        yield told


def _or_skip(find: Callable[[], Found]) -> Found:
    try:
        return find()
    except NoKafka as exc:
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"a real Kafka is required here: {exc}")
        pytest.skip(f"no real Kafka: {exc}")
