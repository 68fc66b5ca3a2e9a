"""On a real Apache Kafka: what the embedded broker has no notion of."""

import time

import numpy as np
import pytest
import torch
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from torch.utils.data import DataLoader

from kafkapipes import (
    AuthError,
    AuthorizationError,
    ConnectError,
    DataLossError,
    KafkaSink,
    RangeParser,
    StalledError,
    TopicError,
    TrainingKafkaDataset,
)
from tests.kafka.cluster import PASSWORD

pytestmark = pytest.mark.kafka
SASL = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "reader",
    "sasl.password": PASSWORD,
}
# Without a bound a few megabytes are fetched ahead, and a fault in the broker comes too late to be seen.
LITTLE_AHEAD = {"queued.max.messages.kbytes": 256, "fetch.max.bytes": 200_000, "message.max.bytes": 150_000}


def records(first, last):
    return [(bytes([number]), bytes([number])) for number in range(first, last)]


def read(cluster, text, **options):
    """The values read, and the account of the only range."""
    reader = RangeParser(text).read_partitions(cluster.bootstrap_servers, **options)
    values = [value[0] for batch in reader for value in batch.values]
    return values, reader.report[0]


def test_the_seeds_call_gives_70000_samples_in_the_order_written(cluster):
    """The three ranges of PyTorchKafkaDataset's README, on topics that hold exactly their records."""
    mnist, other = cluster.new_topic(), cluster.new_topic()
    pictures = np.random.default_rng(0).integers(0, 256, (190_000, 784), np.uint8)
    for topic, upto in ((mnist, 140_000), (other, 50_000)):
        first = 0 if topic == mnist else 140_000
        rows = ((pictures[first + row].tobytes(), bytes([row % 10])) for row in range(upto))
        cluster.produce(topic, rows)
    message = {
        "topic": f"{mnist}:0:0:20000,{other}:0:20000:50000,{mnist}:0:120000:140000",
        "input_config": {"data_type": "uint8", "label_type": "uint8", "data_reshape": "28 28", "label_reshape": ""},
    }

    dataset = TrainingKafkaDataset(message, [cluster.bootstrap_servers], "sink", torch.from_numpy)

    expected = np.concatenate([pictures[:20_000], pictures[160_000:190_000], pictures[120_000:140_000]])
    assert len(dataset) == 70_000
    assert np.array_equal(dataset.values.numpy().reshape(70_000, 784), expected)
    assert (
        dataset.labels.numpy() == np.r_[np.arange(20_000), np.arange(20_000, 50_000), np.arange(120_000, 140_000)] % 10
    ).all()
    value, label = dataset[20_000]
    assert (type(value), value.shape, label) == (torch.Tensor, (28, 28), np.uint8(0))
    assert dataset.coordinates(69_999) == (mnist, 0, 139_999)


@pytest.fixture(scope="module")
def transactions(cluster):
    """0-4 committed, 5 a marker; 6-8 aborted, 9 a marker; 10-11 plain; 12-14 in an open transaction."""
    topic = cluster.new_topic()
    cluster.transaction(topic, records(0, 5), end="commit")
    cluster.transaction(topic, records(6, 9), end="abort")
    cluster.produce(topic, records(10, 12))
    producer = cluster.transaction(topic, records(12, 15), end="open")
    yield topic
    producer.abort_transaction(30)


@pytest.mark.parametrize(
    ("bounds", "values", "gaps"),
    [
        ("0:6", range(5), 1),  # ends on a commit marker
        ("0:5", range(5), 0),
        ("5:6", (), 1),  # nothing but a marker
        ("6:10", (), 4),  # aborted, and its marker
        ("3:11", (3, 4, 10), 5),
        ("0:10", range(5), 5),
        ("earliest:latest", (0, 1, 2, 3, 4, 10, 11), 5),
        ("-3:latest", (10, 11), 1),
    ],
)
def test_markers_and_aborted_records_are_gaps_and_never_waited_for(cluster, transactions, bounds, values, gaps):
    began = time.monotonic()

    found, account = read(cluster, f"{transactions}:0:{bounds}")

    assert found == list(values)
    assert (account.gaps, account.finished) == (gaps, True)
    assert time.monotonic() - began < 5


def test_uncommitted_reading_gives_aborted_and_open_records_but_no_markers(cluster, transactions):
    found, account = read(cluster, f"{transactions}:0:0:15", config={"isolation.level": "read_uncommitted"})

    assert found == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14]
    assert account.gaps == 2


@pytest.mark.parametrize("bounds", ["0:15", "13:14"])
def test_a_range_that_reaches_into_an_open_transaction_is_an_error_with_both_limits(cluster, transactions, bounds):
    with pytest.raises(DataLossError, match=rf"open transaction.*stable until {transactions}:0@12, high watermark 15"):
        read(cluster, f"{transactions}:0:{bounds}")


def test_waiting_for_an_open_transaction_ends_by_a_stall(cluster, transactions):
    with pytest.raises(StalledError, match=rf"{transactions}:0@12.*stall_timeout_s"):
        read(cluster, f"{transactions}:0:0:15", on_short="wait", stall_timeout_s=1)


def test_a_dataset_of_a_transactional_topic_has_exact_length_and_coordinates(cluster, transactions):
    message = {"topic": f"{transactions}:0:0:12", "input_config": {"data_type": "uint8", "label_type": "uint8"}}
    dataset = TrainingKafkaDataset(message, cluster.bootstrap_servers, "sink")

    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert [dataset.coordinates(index)[2] for index in (4, 5, 6)] == [4, 10, 11]
    assert dataset.values.untyped_storage().nbytes() == 7


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_a_range_with_gaps_and_each_record_arrives_once(cluster, transactions, workers):
    pipe = RangeParser(f"{transactions}:0:earliest:latest").read_partitions(cluster.bootstrap_servers)
    loader = DataLoader(pipe.decode_bytes("uint8").transform_samples(), batch_size=None, num_workers=workers)

    assert sorted(int(value) for value in loader) == [0, 1, 2, 3, 4, 10, 11]


@pytest.fixture(scope="module")
def compacted(cluster):
    """Of 200 records with 10 keys, compaction leaves the last of each key, and the newest segment."""
    topic = cluster.new_topic(
        cleanup_policy="compact", segment_ms="200", min_cleanable_dirty_ratio="0.01", delete_retention_ms="0"
    )
    for first in range(0, 200, 50):
        cluster.produce(topic, [(bytes([number]), bytes([number % 10])) for number in range(first, first + 50)])
        time.sleep(0.3)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        cluster.produce(topic, [(b"x", b"roll")])  # a write rolls the segment, which makes the one before cleanable
        time.sleep(0.5)
        found, _ = read(cluster, f"{topic}:0:0:200")
        if len(found) == 10:
            return topic
    raise TimeoutError("the log was not compacted")


@pytest.mark.parametrize(
    ("bounds", "values"), [("0:200", range(190, 200)), ("0:190", ()), ("50:195", range(190, 195)), ("0:1", ())]
)
def test_compacted_offsets_are_gaps_at_the_start_inside_and_at_the_end(cluster, compacted, bounds, values):
    found, account = read(cluster, f"{compacted}:0:{bounds}")

    assert found == list(values)
    assert account.gaps == account.requested - len(found)
    assert account.finished


def test_a_start_below_the_log_is_an_error_or_is_counted(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, records(0, 20))
    partition = TopicPartition(topic, 0, 7)
    cluster.admin.delete_records([partition])[partition].result(30)

    with pytest.raises(
        DataLossError, match=rf"wanted offset 2, the log of {topic}:0 begins at 7, so 5 offset\(s\) are gone"
    ):
        read(cluster, f"{topic}:0:2:20")
    found, account = read(cluster, f"{topic}:0:2:20", on_data_loss="continue")
    assert (found, account.aged_out, account.gaps) == (list(range(7, 20)), 5, 0)
    assert read(cluster, f"{topic}:0:earliest:latest")[0] == found


def test_retention_that_overtakes_a_reader_is_an_error_with_the_place(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, [(bytes(100_000), None)] * 400)
    reader = RangeParser(f"{topic}:0:0:400").read_partitions(
        cluster.bootstrap_servers, batch_records=1, config=LITTLE_AHEAD
    )
    batches = iter(reader)
    next(batches)
    partition = TopicPartition(topic, 0, 390)
    cluster.admin.delete_records([partition])[partition].result(30)

    with pytest.raises(DataLossError, match=rf"reading {topic}:0:0:400 at {topic}:0@\d+"):
        list(batches)


def test_times_are_resolved_to_the_first_record_at_or_after(cluster):
    topic = cluster.new_topic()
    for number, timestamp in enumerate((1000, 3000, 2000, 5000, 4000)):
        cluster.produce(topic, records(number, number + 1), timestamp=timestamp)

    for text, expected in (
        ("@2500:latest", "1:5"),
        ("@3001:latest", "3:5"),
        ("@1000:@5000", "0:3"),
        ("@9000:latest", "5:5"),
        ("0:@9000", "0:5"),
    ):
        found, account = read(cluster, f"{topic}:0:{text}")
        assert str(account.range) == f"{topic}:0:{expected}"
        assert len(found) == len(account.range)


def test_null_keys_tombstones_and_headers_come_as_they_were_written(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, [(b"a", None)], headers=[("h", b"1"), ("h", None)])
    cluster.produce(topic, [(None, b"k"), (b"", b"")])

    (batch,) = RangeParser(f"{topic}:0:0:3").read_partitions(cluster.bootstrap_servers, headers=True)

    assert (list(batch.values), list(batch.keys)) == ([b"a", None, b""], [None, b"k", b""])
    assert batch.headers == [[("h", b"1"), ("h", None)], [], []]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(cluster, compression):
    topic = cluster.new_topic()
    values = np.random.default_rng(1).integers(0, 4, (3000, 50), np.uint8)
    with KafkaSink(topic, cluster.bootstrap_servers, config={"compression.type": compression}) as sink:
        sink.send_batch(values)

    assert np.array_equal(TrainingKafkaDataset(sink.control_message, cluster.bootstrap_servers, "g").values, values)


def test_a_record_larger_than_the_fetch_sizes_is_read(cluster):
    topic = cluster.new_topic(max_message_bytes="5000000")
    options = {"fetch.message.max.bytes": 1000, "fetch.max.bytes": 1_000_000}
    with KafkaSink(topic, cluster.bootstrap_servers, config={"message.max.bytes": 5_000_000}) as sink:
        sink.send(bytes(3_000_000))
        sink.send(b"small")

    assert [
        len(value)
        for value in TrainingKafkaDataset(sink.control_message, cluster.bootstrap_servers, "g", config=options)
    ] == [3_000_000, 5]


def test_a_sinks_ranges_hold_only_its_own_records_beside_another_writer_and_markers(cluster):
    topic = cluster.new_topic(partitions=2)
    with KafkaSink(topic, cluster.bootstrap_servers, partition=0) as sink:
        for number in range(6):
            sink.send(np.uint8([number]), np.uint8(number))
            sink.flush()
            cluster.transaction(topic, [(b"other", b"o")], end="commit")

    dataset = TrainingKafkaDataset(sink.control_message, cluster.bootstrap_servers, "g")

    assert dataset.labels.tolist() == list(range(6))
    assert sink.control_message.topic == ",".join(f"{topic}:0:{3 * number}:{3 * number + 1}" for number in range(6))


def test_several_topics_partitions_and_ranges_come_in_the_order_written(cluster):
    first, second = cluster.new_topic(partitions=2), cluster.new_topic()
    cluster.produce(first, records(0, 10), 0)
    cluster.produce(first, records(10, 20), 1)
    cluster.produce(second, records(20, 30))
    text = f"{second}:0:5:7,{first}:*:-2:latest,{second}:0:0:1,{first}:1:0:0"
    reader = RangeParser(text).read_partitions(cluster.bootstrap_servers)

    assert [value[0] for batch in reader for value in batch.values] == [25, 26, 8, 9, 18, 19, 20]
    assert len(reader.report) == 5


def test_an_unknown_topic_or_partition_is_an_error_at_once(cluster):
    topic = cluster.new_topic()
    began = time.monotonic()

    with pytest.raises(TopicError, match=r"no-such-topic.*UNKNOWN_TOPIC_OR_PART"):
        read(cluster, "no-such-topic:0:0:1")
    with pytest.raises(TopicError, match=f"no partition 4 in topic {topic}, it has 1: 0"):
        read(cluster, f"{topic}:4:0:1")
    assert time.monotonic() - began < 5


def test_a_topic_that_is_denied_is_an_error_that_says_what_is_needed(own_broker):
    topic = own_broker.new_topic()
    reader = RangeParser(f"{topic}:0:0:1").read_partitions(own_broker.sasl_servers, config=SASL)

    with pytest.raises(AuthorizationError, match=f"{topic}.*READ and DESCRIBE"):
        list(reader)


def test_a_topic_that_is_allowed_is_read_without_any_right_to_the_group(own_broker):
    topic = own_broker.new_topic()
    own_broker.produce(topic, records(0, 5))
    allow = (AclOperation.READ, AclPermissionType.ALLOW)
    binding = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:reader", "*", *allow)
    own_broker.admin.create_acls([binding])[binding].result(30)

    reader = RangeParser(f"{topic}:0:0:5").read_partitions(own_broker.sasl_servers, config=SASL)

    assert sum(map(len, reader)) == 5


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"sasl.password": "wrong-password"}, AuthError, "Authentication failed"),
        ({"sasl.mechanism": "SCRAM-SHA-256"}, AuthError, "PLAIN"),
        ({"security.protocol": "PLAINTEXT"}, ConnectError, "Disconnected.*security.protocol"),
        ({"security.protocol": "SSL"}, (AuthError, ConnectError), "SSL"),
    ],
)
def test_wrong_credentials_or_protocol_are_an_error_within_the_timeout_without_the_secret(
    own_broker, change, error, text
):
    reader = RangeParser("t:0:0:1").read_partitions(
        own_broker.sasl_servers, config={**SASL, **change}, connect_timeout_s=3
    )
    began = time.monotonic()

    with pytest.raises(error, match=text) as caught:
        list(reader)

    assert time.monotonic() - began < 4
    assert PASSWORD not in str(caught.value)
    assert "wrong-password" not in str(caught.value)


def test_a_broker_that_hangs_is_a_stall_that_names_the_place(own_broker):
    topic = own_broker.new_topic()
    own_broker.produce(topic, [(bytes(100_000), None)] * 300)
    reader = RangeParser(f"{topic}:0:0:300").read_partitions(
        own_broker.bootstrap_servers, batch_records=1, stall_timeout_s=2,
        config=LITTLE_AHEAD,
    )  # fmt: skip
    batches = iter(reader)
    next(batches)
    own_broker.pause()
    try:
        with pytest.raises(StalledError, match=rf"nothing arrived for .* at {topic}:0@\d+"):
            list(batches)
    finally:
        own_broker.resume()


def test_a_broker_that_pauses_shortly_loses_and_doubles_nothing(own_broker):
    topic = own_broker.new_topic()
    own_broker.produce(topic, [(bytes(100_000), bytes([number])) for number in range(200)])
    reader = RangeParser(f"{topic}:0:0:200").read_partitions(
        own_broker.bootstrap_servers, batch_records=1,
        config=LITTLE_AHEAD,
    )  # fmt: skip
    batches = iter(reader)
    offsets = list(next(batches).offsets)
    own_broker.pause()
    time.sleep(1.5)
    own_broker.resume()

    offsets += [offset for batch in batches for offset in batch.offsets]

    assert offsets == list(range(200))


def test_nothing_is_committed_to_the_group(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, records(0, 5))
    list(RangeParser(f"{topic}:0:0:5").read_partitions(cluster.bootstrap_servers, "trainers"))

    groups = cluster.admin.list_consumer_groups(request_timeout=10).result().valid

    assert "trainers" not in {group.group_id for group in groups}
