import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest

from kafkapipes import ConfigError, KafkaPipesError, RangeParser
from kafkapipes.testing import EmbeddedKafka


def test_a_topic_has_the_partitions_that_were_asked_for(embedded):
    embedded.create_topic("clicks", partitions=3)

    reader = RangeParser("clicks:*:earliest:latest").read_partitions(embedded.bootstrap_servers)

    assert [item.partition for item in reader.plan().ranges] == [0, 1, 2]


def test_filling_appends_to_the_partition_named(embedded):
    embedded.create_topic("clicks", partitions=2)
    embedded.fill("clicks", [(b"a", None)], partition=1)
    embedded.fill("clicks", [(b"b", b"k"), (None, b"t")], partition=1)

    read = list(RangeParser("clicks:1:0:3").read_partitions(embedded.bootstrap_servers))

    assert [value for batch in read for value in batch.values] == [b"a", b"b", None]
    assert [key for batch in read for key in batch.keys] == [None, b"k", b"t"]


def test_more_records_than_the_clients_queue_holds_can_be_filled(embedded):
    embedded.fill("clicks", ((b"", None) for _ in range(100_000)))

    reader = RangeParser("clicks:0:0:latest").read_partitions(embedded.bootstrap_servers)

    assert reader.plan().requested == 100_000


def test_several_brokers_may_run(embedded):
    with EmbeddedKafka(brokers=3) as kafka:
        assert kafka.bootstrap_servers.count("127.0.0.1:") == 3


def test_a_topic_cannot_be_created_twice(embedded):
    embedded.create_topic("clicks")

    with pytest.raises(KafkaPipesError, match=r"'clicks' .* was not created"):
        embedded.create_topic("clicks")


@pytest.mark.parametrize("brokers", [0, 101, "3", None])
def test_a_senseless_number_of_brokers_is_refused(brokers):
    with pytest.raises(ConfigError, match="brokers is"):
        EmbeddedKafka(brokers)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_can_read_but_neither_fill_nor_stop_the_cluster(embedded):
    def refused_in_the_fork(answers):
        with pytest.raises(KafkaPipesError, match="runs in another process"):
            embedded.create_topic("other")
        embedded.close()
        (batch,) = RangeParser("clicks:0:0:1").read_partitions(embedded.bootstrap_servers)
        answers.put(batch.values[0])

    embedded.fill("clicks", [(b"a", None)])
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=refused_in_the_fork, args=(answers,))
    child.start()
    child.join(20)

    assert (child.exitcode, answers.get()) == (0, b"a")
    embedded.create_topic("other")


def test_a_cluster_is_not_pickled():
    with EmbeddedKafka() as kafka, pytest.raises(TypeError, match="give the other process its bootstrap_servers"):
        pickle.dumps(kafka)


def test_a_closed_cluster_says_so_and_may_be_closed_again():
    kafka = EmbeddedKafka()
    kafka.close()
    kafka.close()

    with pytest.raises(KafkaPipesError, match="closed"):
        kafka.create_topic("clicks")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for threads")
def test_a_signal_that_any_thread_may_get_does_not_end_the_brokers(embedded):
    """The end of a DataLoader's worker is one."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        for thread in Path("/proc/self/task").iterdir():
            if thread.name != str(os.getpid()):
                ctypes.CDLL(None).tgkill(os.getpid(), int(thread.name), int(signal.SIGUSR1))
        time.sleep(0.2)
        embedded.fill("clicks", [(b"a", None)])
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
