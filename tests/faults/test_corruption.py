"""Batches that are damaged on disk or on the wire: the first one ends the read, and none is left out in silence."""

import os
import signal
import subprocess
import sys

import pytest
from confluent_kafka import KafkaError, Producer

from kafkapipes import CorruptDataError, StalledError
from kafkapipes.kafka.failures import TERMINAL
from kafkapipes.kafka.native import VARIABLE
from tests.faults import batches
from tests.faults.harness import LITTLE_AHEAD, fault, ledger, read, record, records
from tests.faults.proxy import proxied_mock

RECORDS = 60
TEXT = f"t:0:0:{RECORDS}"
TRUTH = ledger("t", range(RECORDS))
DAMAGED, BASE = 25, 20  # a record, and the first one of its batch of 10
LARGE = 50_000
SLOWLY = {"config": LITTLE_AHEAD, "batch_records": 1}
UNCHECKED = {"check.crcs": False}


def fill(servers, compression="none", in_a_batch=10, pad=b"some" * 25):
    """60 records of topic t; the pad is what can be compressed of them, and ends each batch."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 1000, "compression.type": compression})
    for first in range(0, RECORDS, in_a_batch):
        for value, key in records("t", range(first, first + in_a_batch), size=100):
            producer.produce("t", value, key, 0, headers={"pad": pad})
        assert producer.flush(30) == 0


@pytest.fixture
def wire(embedded):
    """A proxy before the embedded broker, which has topic t."""
    embedded.create_topic("t")
    with proxied_mock(embedded) as proxy:
        yield proxy


def damage_in_flight(proxy, damage):
    """From now on the batch of record 25 comes damaged."""
    proxy.rewrite(lambda response: batches.damaged(response, DAMAGED, damage))


def flip_on_disk(broker, topic, sequence, size):
    """Flip a bit of a record's value in the log; how many bytes are not what they were."""
    (path,) = broker.log_folder(topic).glob("*.log")
    before = path.read_bytes()
    at = before.index(record(topic, 0, sequence, size)[0]) + 20
    with path.open("r+b") as segment:  # in place, and so in the page cache: the broker holds the file open
        segment.seek(at)
        segment.write(bytes([before[at] ^ 1]))
    return sum(old != new for old, new in zip(before, path.read_bytes(), strict=True))


@pytest.mark.kafka
@pytest.mark.case(28)
def test_a_bit_that_flips_on_disk_amid_a_read_is_an_error_at_its_offset(
    spare_broker, oracle, how, verdict, monkeypatch
):
    topic = spare_broker.new_topic()
    spare_broker.produce(topic, records(topic, range(RECORDS), size=LARGE))

    with fault(monkeypatch, lambda: flip_on_disk(spare_broker, topic, 55, LARGE)) as fired:
        outcome = read(how, spare_broker.bootstrap_servers, f"{topic}:0:0:{RECORDS}", **SLOWLY)

    verdict.failed(outcome, CorruptDataError, f"{topic}:0@", within_s=10, truth=ledger(topic, range(RECORDS)))
    with pytest.raises(RuntimeError, match="cannot read"):
        oracle.truth(spare_broker.bootstrap_servers, topic)
    verdict.has_fired(fired.result)


@pytest.mark.kafka
@pytest.mark.case(28)
def test_without_checksums_a_bit_that_flipped_on_disk_is_delivered_as_good(spare_broker, verdict):
    """The control: the client's own default."""
    topic = spare_broker.new_topic()
    spare_broker.produce(topic, records(topic, range(RECORDS)))
    verdict.has_fired(flip_on_disk(spare_broker, topic, 55, 32))

    outcome = read("chain-0", spare_broker.bootstrap_servers, f"{topic}:0:0:{RECORDS}", config=UNCHECKED)

    verdict.control(outcome, ledger(topic, range(RECORDS)))


@pytest.mark.case(28)
def test_a_bit_that_flips_once_on_the_wire_ends_the_read_behind_the_records_before_its_batch(wire, how, verdict):
    fill(wire.servers)
    damage_in_flight(wire, batches.once(batches.flip))

    outcome = read(how, wire.servers, TEXT)

    verdict.failed(outcome, CorruptDataError, f"at t:0@{BASE}: _BAD_MSG", within_s=5, truth=TRUTH)
    assert how != "chain-0" or outcome.delivered[-1][0] == ("t", 0, BASE - 1)
    verdict.has_fired(wire.fired)


READ = """
import resource
from torch.utils.data import DataLoader
from kafkapipes import RangeParser
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
reader = RangeParser("t:0:0:60").read_partitions({servers!r})
print(sum(DataLoader(reader.map(len), batch_size=None, num_workers={workers})))
"""


@pytest.mark.parametrize("client", ["direct", "native"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_batch_that_ends_in_zeros_is_never_read_as_good(wire, workers, client):
    """librdkafka 2.16 looks for the next batch in the wrong place, and aborts on what it finds there."""
    pytest.importorskip("kafkapipes.kafka._native", reason="kafkapipes was installed without its extensions")
    fill(wire.servers, pad=bytes(100))
    damage_in_flight(wire, batches.flip)

    command = [sys.executable, "-W", "ignore", "-c", READ.format(servers=wire.servers, workers=workers)]
    environment = {**os.environ, VARIABLE: client}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    assert (done.stdout, wire.fired > 0) == ("", True)
    ends = [(1, "CorruptDataError")]
    if client == "native":
        ends += [(-signal.SIGABRT, "Assertion"), (1, "killed by signal: Aborted")]
    assert any(done.returncode == code and word in done.stderr for code, word in ends), done.stderr


@pytest.mark.case(28)
def test_without_checksums_a_bit_that_flips_on_the_wire_is_delivered_as_good(wire, verdict):
    fill(wire.servers)
    damage_in_flight(wire, batches.flip)

    verdict.control(read("chain-0", wire.servers, TEXT, config=UNCHECKED), TRUTH)
    verdict.has_fired(wire.fired)


@pytest.mark.case(29)
@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_a_payload_that_does_not_unpack_ends_the_read(wire, how, verdict, compression):
    fill(wire.servers, compression)
    damage_in_flight(wire, batches.garble)

    outcome = read(how, wire.servers, TEXT)

    verdict.failed(outcome, CorruptDataError, f"at t:0@{BASE}: _BAD_COMPRESSION", within_s=5, truth=TRUTH)
    verdict.has_fired(wire.fired)


@pytest.mark.case(29)
@pytest.mark.parametrize("number", [5, 6, 7])
def test_a_codec_that_there_is_not_ends_the_read(wire, how, verdict, number):
    fill(wire.servers)
    damage_in_flight(wire, batches.codec(number))

    outcome = read(how, wire.servers, TEXT)

    verdict.failed(outcome, CorruptDataError, f"at t:0@{BASE}: ", f"codec 0x{number}", within_s=5, truth=TRUTH)
    verdict.has_fired(wire.fired)


@pytest.mark.case(29)
@pytest.mark.parametrize(("number", "compression"), [(1, "snappy"), (2, "lz4"), (3, "zstd"), (4, "gzip")])
def test_a_payload_of_another_codec_than_its_batch_names_ends_the_read(wire, how, verdict, number, compression):
    fill(wire.servers, compression)
    damage_in_flight(wire, batches.codec(number))

    outcome = read(how, wire.servers, TEXT)

    verdict.failed(outcome, CorruptDataError, f"at t:0@{BASE}: _BAD_COMPRESSION", within_s=5, truth=TRUTH)
    verdict.has_fired(wire.fired)


@pytest.mark.case(30)
@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 255])
def test_a_message_format_that_there_is_not_ends_the_read(wire, how, verdict, number):
    fill(wire.servers)
    damage_in_flight(wire, batches.magic(number))

    outcome = read(how, wire.servers, TEXT)

    verdict.failed(outcome, CorruptDataError, f"at t:0@{BASE}: ", f"offset {BASE}", within_s=5, truth=TRUTH)
    verdict.has_fired(wire.fired)


@pytest.mark.case(30)
def test_a_reader_that_goes_on_behind_an_unknown_message_format_loses_its_batch(wire, verdict, monkeypatch):
    """The control: the client says it once, and leaves the batch out."""
    fill(wire.servers, in_a_batch=1)
    damage_in_flight(wire, batches.magic(3))
    monkeypatch.delitem(TERMINAL, KafkaError._NOT_IMPLEMENTED)

    verdict.control(read("chain-0", wire.servers, TEXT, stall_timeout_s=5), TRUTH)
    verdict.has_fired(wire.fired)


@pytest.mark.case(28)
def test_a_batch_of_noise_under_a_checksum_that_fits_ends_the_read_at_its_offset(wire, how, verdict):
    """A writer's fault, which no checksum shows: the client tries for ever, and says nothing."""
    fill(wire.servers)
    damage_in_flight(wire, batches.garble)

    outcome = read(how, wire.servers, TEXT, stall_timeout_s=1)

    verdict.failed(outcome, StalledError, f"at t:0@{BASE}", within_s=6, truth=TRUTH)
    verdict.has_fired(wire.fired)
