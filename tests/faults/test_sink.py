"""Does what a sink announces lie in the log, each record once? Its broker dies, refuses, hangs; or its process dies."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from kafkapipes import DeliveryError, KafkaSink, RangeParser
from kafkapipes.ranges import parse_ranges
from tests.faults.harness import record, records
from tests.faults.oracle import checksum
from tests.kafka.test_offsets import fail_requests

PRODUCE = 0  # the protocol's number of the request
TIMED_OUT, NOT_LEADER, NOT_ENOUGH_REPLICAS, TOO_LARGE = 7, 6, 19, 10
RECORDS = 3000
PATIENT = {"delivery_timeout_s": 60.0}


def announced(oracle, cluster, control_message):
    """The checksums of the values that the announced ranges hold, as the oracle reads them."""
    found = []
    for item in parse_ranges(control_message.topic):
        told = oracle.truth(cluster.bootstrap_servers, item.topic, item.partition, item.start, item.end)
        found += [value for _, _, value in told.records]
    return found


@pytest.mark.kafka
@pytest.mark.case(50)
def test_a_broker_that_dies_amid_sending_gets_every_record_once_in_order(spare_broker, oracle):
    topic, before = spare_broker.new_topic(), spare_broker.restarts
    rows = records(topic, range(RECORDS), size=500)

    with KafkaSink(topic, spare_broker.bootstrap_servers, data_type="bytes", label_type="bytes", **PATIENT) as sink:
        for place, (value, key) in enumerate(rows):
            if place == RECORDS // 2:
                spare_broker.kill()
            if place == RECORDS // 2 + 200:
                spare_broker.start()
            sink.send(value, key)

    assert spare_broker.restarts == before + 1
    assert sink.control_message.total_msg == RECORDS
    assert announced(oracle, spare_broker, sink.control_message) == [checksum(value) for value, _ in rows]


@pytest.mark.case(50)
@pytest.mark.parametrize("code", [TIMED_OUT, NOT_LEADER, NOT_ENOUGH_REPLICAS])
def test_a_send_that_is_refused_for_a_moment_is_repeated_and_stored_once(embedded, code):
    embedded.create_topic("t")
    fail_requests(embedded, PRODUCE, code, code)

    with KafkaSink("t", embedded.bootstrap_servers, data_type="bytes", **PATIENT) as sink:
        for number in range(20):
            sink.send(record("t", 0, number)[0])

    assert sink.control_message.topic == "t:0:0:20"


@pytest.mark.case(50)
def test_a_send_that_is_refused_for_good_fails_the_sink_and_announces_nothing(embedded):
    embedded.create_topic("t")
    fail_requests(embedded, PRODUCE, TOO_LARGE)
    sink = KafkaSink("t", embedded.bootstrap_servers, data_type="bytes", **PATIENT)
    sink.send(b"one")

    with pytest.raises(DeliveryError, match=r"1 record\(s\) for t were not acknowledged.*MSG_SIZE_TOO_LARGE"):
        sink.close()
    with pytest.raises(DeliveryError, match="not acknowledged"):
        _ = sink.control_message


@pytest.mark.kafka
@pytest.mark.case(50)
def test_a_flush_that_no_broker_answers_ends_at_its_timeout_and_announces_nothing(own_broker):
    topic = own_broker.new_topic()
    sink = KafkaSink(topic, own_broker.bootstrap_servers, data_type="bytes", delivery_timeout_s=2.0)
    own_broker.pause()
    try:
        sink.send(b"one")
        began = time.monotonic()
        with pytest.raises(DeliveryError, match=r"1 record\(s\) .*not acknowledged"):
            sink.close()
        assert time.monotonic() - began < 9
    finally:
        own_broker.resume()


@pytest.mark.case(50)
def test_a_full_queue_makes_send_wait_and_loses_nothing(embedded):
    embedded.create_topic("t")
    with KafkaSink("t", embedded.bootstrap_servers, config={"queue.buffering.max.messages": 10}) as sink:
        sink.send_batch([value for value, _ in records("t", range(500))])

    reader = RangeParser("t:0:0:500").read_partitions(embedded.bootstrap_servers)
    assert sink.control_message.topic == "t:0:0:500"
    assert [value for batch in reader for value in batch.values] == [value for value, _ in records("t", range(500))]


@pytest.mark.case(50)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_may_not_send_by_its_parents_sink_and_may_drop_it(embedded):
    embedded.create_topic("t")
    with KafkaSink("t", embedded.bootstrap_servers, config={"linger.ms": 500}) as sink:
        sink.send(b"one")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.raises(DeliveryError, match="no client survives a fork"):
                    sink.send(b"two")
                with pytest.raises(DeliveryError, match="no client survives a fork"):
                    sink.flush()
                sink.close()
                del sink
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0

    assert sink.control_message.topic == "t:0:0:1"


SENDER = """
import sys
from kafkapipes import KafkaSink
with KafkaSink(sys.argv[2], sys.argv[1], data_type="bytes") as sink:
    for number in range(10**7):
        sink.send(number.to_bytes(4, "big") * 100)
        if number == 5000:
            print("sending", flush=True)
print(sink.control_message.to_json(), flush=True)
"""


@pytest.mark.kafka
@pytest.mark.case(50)
def test_a_sink_that_is_killed_amid_sending_announces_nothing_and_leaves_no_record_twice(cluster, oracle):
    topic = cluster.new_topic()
    command = [sys.executable, "-c", SENDER, cluster.bootstrap_servers, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout.readline() == "sending\n"
        sender.kill()
        rest = sender.stdout.read()

    assert (rest, sender.wait()) == ("", -signal.SIGKILL)
    stored = [value for _, _, value in oracle.truth(cluster.bootstrap_servers, topic).records]
    assert stored == [checksum(number.to_bytes(4, "big") * 100) for number in range(len(stored))]
