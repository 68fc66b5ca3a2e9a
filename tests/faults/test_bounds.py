"""What a read may take: bombs, absurd shapes, endless ranges and many partitions, each in a process of its own.

The child prints how the read ended, and the most memory that it had above that of the imports.
"""

import json
import os
import subprocess
import sys

import pytest
from confluent_kafka import Producer

from kafkapipes.testing import EmbeddedKafka

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

MB = 10**6
INFLATED = 200 * MB
MARK = b"payload-never-shown"
CHILD = """
import json, resource, sys, time
from functools import partial
from pathlib import Path
import kafkapipes
import kafkapipes.dataset
from kafkapipes import RangeParser, TrainingKafkaDataset
from kafkapipes.memory import MachineLimit, Memory

def memory(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

def slowly(batches, pause_s):
    for batch in batches:
        time.sleep(pause_s)
        yield batch

def read(servers, text, options):
    if (elements := options.pop("elements", None)) is not None:
        pause_s = options.pop("pause_s", 0)
        reader = RangeParser(text).read_partitions(servers, **options)
        return sum(len(batch) for batch in slowly(reader.decode_bytes("uint8", data_elements=elements), pause_s))
    message = {"topic": text, "input_config": options.pop("input_config")}
    return len(TrainingKafkaDataset(message, servers, "bounds", **options))

for text, options in json.loads(sys.argv[2]):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports, and of the read before
    before, ended = memory("VmRSS"), {"error": "", "text": "", "records": 0}
    if addresses := options.pop("addresses", None):
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + addresses,) * 2)
    if total := options.pop("machine", None):  # one with so much memory, of which only this read takes any
        free = lambda: Memory(total, total - max(0, memory("VmRSS") - before))
        kafkapipes.dataset.MachineLimit = partial(MachineLimit, free)
    try:
        ended["records"] = read(sys.argv[1], text, options)
    except kafkapipes.KafkaPipesError as exc:
        ended |= {"error": type(exc).__name__, "text": str(exc)}
    print(json.dumps({**ended, "peak": memory("VmHWM") - before}))
"""


def start(kafka, *reads):
    """A finished process that did some reads, one after the other: each (ranges, options).

    With `elements` among its options a read goes by the chain, else it is a dataset.
    """
    command = [sys.executable, "-c", CHILD, kafka.bootstrap_servers, json.dumps(reads)]
    return subprocess.run(command, capture_output=True, text=True, timeout=170)


def read(kafka, *reads):
    """How each read ended: error class, text, records, and the peak of memory in bytes."""
    done = start(kafka, *reads)
    assert done.returncode == 0, done.stderr
    assert MARK.decode() not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


BYTES = {"input_config": {"data_type": "bytes"}}
ONE_ELEMENT = {"input_config": {"data_type": "uint8", "data_reshape": "1"}}
CHAIN = {"elements": 1}
BOMB = "bomb:0:0:3"


@pytest.fixture(scope="module", params=["gzip", "lz4"])
def bomb(request):
    """One record of 200 MB at `bomb:0@1`, of less than 1 MB on the wire, between two of one byte."""
    with EmbeddedKafka() as kafka:
        assert fill_bomb(kafka, request.param, INFLATED) < MB
        yield kafka


def fill_bomb(kafka, codec, size):
    """The bytes that went over the wire."""
    kafka.fill("bomb", [(b"x", None)])
    sent = send_bomb(kafka, "bomb", codec, size)
    kafka.fill("bomb", [(b"x", None)])
    return sent


def send_bomb(kafka, topic, codec, size):
    """The bytes that went over the wire."""
    sent = []
    properties = {
        "bootstrap.servers": kafka.bootstrap_servers, "compression.codec": codec, "message.max.bytes": 1000 * MB,
        "log_level": 0,
        "statistics.interval.ms": 20, "stats_cb": lambda text: sent.append(json.loads(text)["tx_bytes"]),
    }  # fmt: skip
    producer = Producer(properties)
    producer.produce(topic, MARK + bytes(size - len(MARK)), None, 0)
    assert producer.flush(60) == 0
    producer.poll(0.2)
    return sent[-1]


@pytest.mark.case(43)
def test_a_bomb_where_a_small_type_is_declared_is_a_decode_error_at_twice_its_size(bomb):
    for ended in read(bomb, (BOMB, CHAIN), (BOMB, ONE_ELEMENT)):
        assert ended["error"] == "DecodeError"
        assert "at bomb:0@1: wanted a value that fits: wanted 1 bytes (1 x uint8) found 200000000" in ended["text"]
        assert INFLATED < ended["peak"] < 2 * INFLATED + 64 * MB


@pytest.mark.case(43)
def test_a_bomb_of_bytes_is_an_error_at_the_limit_that_was_set_or_that_the_machine_sets(bomb):
    set_by_user, set_by_machine = read(bomb, (BOMB, {**BYTES, "max_bytes": MB}), (BOMB, {**BYTES, "machine": 450 * MB}))

    assert set_by_user["error"] == set_by_machine["error"] == "MemoryLimitError"
    assert "at bomb:0@1: wanted 2000000" in set_by_user["text"]
    assert "at bomb:0@1: wanted 2000000" in set_by_machine["text"]
    assert "bytes free" in set_by_machine["text"]
    assert max(set_by_user["peak"], set_by_machine["peak"]) < 2 * INFLATED + 64 * MB


@pytest.mark.case(43)
def test_a_bomb_is_left_out_by_policy_and_the_records_around_it_arrive(bomb):
    (ended,) = read(bomb, (BOMB, {**ONE_ELEMENT, "on_error": "skip"}))

    assert (ended["error"], ended["records"]) == ("", 2)
    assert ended["peak"] < 2 * INFLATED + 64 * MB


@pytest.mark.case(43)
def test_a_bomb_under_a_limit_on_addresses_ends_in_an_error_or_ends_the_process_and_never_the_read_well(bomb):
    done = start(bomb, (BOMB, {**ONE_ELEMENT, "on_error": "skip", "addresses": 190 * MB}))

    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(bool(end["error"]), end["records"]) for end in ended] == [(True, 0)] if ended else done.returncode != 0


@pytest.mark.case(43)
def test_a_bomb_by_zstd_is_an_error_before_it_is_inflated():
    with EmbeddedKafka() as kafka:
        assert fill_bomb(kafka, "zstd", INFLATED) < MB
        (ended,) = read(kafka, (BOMB, ONE_ELEMENT))

    assert ended["error"] == "CorruptDataError"
    assert "bomb:0@1" in ended["text"]
    assert ended["peak"] < 100 * MB + 16 * MB  # receive.message.max.bytes


@pytest.fixture(scope="module")
def plain():
    """Two records of 1 byte in `plain:0`, and 4 MB in records of 1 kB in `much:0`."""
    with EmbeddedKafka() as kafka:
        kafka.fill("plain", [(b"x", None), (b"y", None)])
        kafka.fill("much", [(bytes(1000), None)] * 4000)
        yield kafka


def doubles(shape, **options):
    return {"input_config": {"data_type": "float64", "data_reshape": shape}, **options}


def test_an_absurd_shape_is_an_error_that_takes_no_memory(plain):
    shapes = ["2147483648", "2147483647 1", "99999999999", "65536 65536 65536 65536"]

    ended = read(plain, *[("plain:0:0:2", doubles(shape)) for shape in shapes])

    assert [item["error"] for item in ended] == ["DecodeError"] * 2 + ["ControlMessageError"] * 2
    assert max(item["peak"] for item in ended) < 32 * MB


def test_an_absurd_shape_is_refused_before_a_record_is_read_where_a_number_of_bytes_is_set(plain):
    (ended,) = read(plain, ("plain:0:0:2", doubles("2147483648", max_bytes=2**34)))

    assert ended["error"] == "MemoryLimitError"
    assert "2 offset(s) x 17179869184 bytes a sample" in ended["text"]


@pytest.mark.parametrize("how", [CHAIN, ONE_ELEMENT, BYTES], ids=["chain", "dataset", "dataset of bytes"])
def test_a_huge_end_offset_takes_no_memory_under_any_policy(plain, how):
    endless, policies = f"plain:0:0:{2**63 - 1}", ("raise", "stop", "wait")
    reads = [(endless, {**how, "on_short": policy, "stall_timeout_s": 1}) for policy in policies]

    refused, stopped, waited = read(plain, *reads)

    assert refused["error"] == "DataLossError"
    assert "wanted records up to 9223372036854775807, the high watermark is plain:0@2" in refused["text"]
    assert (stopped["error"], stopped["records"]) == ("", 2)
    assert waited["error"] == "StalledError"
    assert "plain:0@2" in waited["text"]
    assert max(refused["peak"], stopped["peak"], waited["peak"]) < 32 * MB


def test_a_huge_end_offset_to_wait_for_is_refused_where_a_number_of_bytes_is_set(plain):
    endless = f"plain:0:0:{2**63 - 1}"

    (ended,) = read(plain, (endless, {**ONE_ELEMENT, "on_short": "wait", "max_bytes": MB}))

    assert ended["error"] == "MemoryLimitError"


def test_a_dataset_takes_its_samples_and_what_a_read_takes_besides(plain):
    (ended,) = read(plain, (",".join(["much:0:0:4000"] * 50), BYTES))

    assert (ended["error"], ended["records"]) == ("", 200_000)
    assert 200 * MB < ended["peak"] < 200 * MB + 96 * MB


@pytest.mark.parametrize("kind", [{"data_type": "bytes"}, {"data_type": "uint8", "data_reshape": "1000"}])
def test_a_read_that_the_machine_cannot_hold_ends_before_the_memory_does(plain, kind):
    total = 400 * MB
    text = ",".join(["much:0:0:4000"] * 200)  # 800 MB

    (ended,) = read(plain, (text, {"input_config": kind, "machine": total}))

    assert ended["error"] == "MemoryLimitError"
    assert f"of {total} bytes free" in ended["text"]
    assert total / 2 < ended["peak"] < total


@pytest.mark.case(42)
def test_sixty_four_partitions_take_no_more_than_one():
    with EmbeddedKafka() as kafka:
        kafka.create_topic("wide", partitions=64)
        for partition in range(64):
            kafka.fill("wide", [(bytes(2000), None)] * 1000, partition)
        (ended,) = read(kafka, ("wide:*:earliest:latest", {"elements": 2000}))

    assert (ended["error"], ended["records"]) == ("", 64_000)  # 128 MB
    assert ended["peak"] < 64 * MB


@pytest.mark.case(43)
@pytest.mark.kafka
def test_all_bombs_in_one_answer_of_a_broker_are_inflated_at_once_and_small_answers_hold_one(cluster):
    topic, size = cluster.new_topic(), 50 * MB
    for _ in range(6):
        assert send_bomb(cluster, topic, "gzip", size) < MB / 10
    small = {"fetch.message.max.bytes": 10_000}

    one_answer, six_answers = read(cluster, (f"{topic}:0:0:6", CHAIN), (f"{topic}:0:0:6", {**CHAIN, "config": small}))

    assert one_answer["error"] == six_answers["error"] == "DecodeError"
    assert 6 * size < one_answer["peak"] < 2 * 6 * size + 64 * MB
    assert six_answers["peak"] < 4 * size + 64 * MB


@pytest.mark.case(42)
@pytest.mark.kafka
def test_a_slow_reader_is_not_run_over_by_what_is_fetched_ahead(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, [(os.urandom(10_000), None) for _ in range(12_000)])

    (ended,) = read(cluster, (f"{topic}:0:0:12000", {"elements": 10_000, "pause_s": 0.1}))

    assert (ended["error"], ended["records"]) == ("", 12_000)  # 120 MB
    assert ended["peak"] < 96 * MB
