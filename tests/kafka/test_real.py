"""On a real Apache Kafka: what the embedded broker has no notion of."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kafkapipes import (
    DeadLetterTopic,
    KafkaSink,
    RangeParser,
    StreamingKafkaDataset,
    TrainingKafkaDataset,
)
from kafkapipes.kafka import direct, watch
from kafkapipes.kafka.native import VARIABLE

pytestmark = pytest.mark.kafka


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


@pytest.mark.parametrize("readers", [1, 2, 5, 12])
def test_a_dataset_of_a_transactional_topic_has_exact_length_and_coordinates(cluster, readers):
    topic = cluster.new_topic()
    cluster.transaction(topic, records(0, 5), end="commit")  # 5: its marker
    cluster.transaction(topic, records(6, 9), end="abort")  # 9: its marker
    cluster.produce(topic, records(10, 12))
    message = {"topic": f"{topic}:0:0:12", "input_config": {"data_type": "uint8", "label_type": "uint8"}}
    dataset = TrainingKafkaDataset(message, cluster.bootstrap_servers, "sink", readers=readers)

    assert dataset.labels.tolist() == dataset.values.flatten().tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert dataset.report[0].gaps == 5
    assert [dataset.coordinates(index)[2] for index in (4, 5, 6)] == [4, 10, 11]
    assert dataset.values.untyped_storage().nbytes() == 7


def test_null_keys_tombstones_and_headers_come_as_they_were_written(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, [(b"a", None)], headers=[("h", b"1"), ("h", None)])
    cluster.produce(topic, [(None, b"k"), (b"", b"")])

    read = list(RangeParser(f"{topic}:0:0:3").read_partitions(cluster.bootstrap_servers, headers=True))

    assert [value for batch in read for value in batch.values] == [b"a", None, b""]
    assert [key for batch in read for key in batch.keys] == [None, b"k", b""]
    assert [headers for batch in read for headers in batch.headers] == [[("h", b"1"), ("h", None)], [], []]


def test_a_plain_read_needs_no_client_of_librdkafka_once_it_is_planned(cluster, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a client of librdkafka was made")

    monkeypatch.delenv(VARIABLE, raising=False)
    topic = cluster.new_topic()
    cluster.produce(topic, records(0, 5))
    message = {"topic": f"{topic}:0:0:5", "input_config": {"data_type": "uint8", "label_type": "uint8"}}
    stream = StreamingKafkaDataset(message, cluster.bootstrap_servers, "sink")
    monkeypatch.setattr(direct, "open_client", refuse)
    monkeypatch.setattr(watch, "AdminClient", refuse)

    assert [int(label) for _, label in stream] == [0, 1, 2, 3, 4]
    assert stream.report[0].topic_id


def test_a_large_range_is_read_by_several_readers_into_the_rows_of_one_tensor(cluster):
    topic = cluster.new_topic()
    numbers = np.arange(450_000, dtype=np.uint32)
    cluster.produce(topic, ((number.tobytes(), bytes([number % 251])) for number in numbers))
    config = {"data_type": "uint32", "label_type": "uint8"}
    message = {"topic": f"{topic}:0:0:450000", "input_config": config}

    for readers in (None, 3):
        dataset = TrainingKafkaDataset(message, cluster.bootstrap_servers, "g", readers=readers)

        assert np.array_equal(dataset.values.numpy().ravel(), numbers)
        assert np.array_equal(dataset.labels.numpy(), numbers % 251)
        assert dataset.coordinates(300_001) == (topic, 0, 300_001)
        assert (dataset.report.delivered, dataset.report[0].finished) == (450_000, True)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(cluster, compression):
    topic = cluster.new_topic()
    values = np.random.default_rng(1).integers(0, 4, (3000, 50), np.uint8)
    with KafkaSink(topic, cluster.bootstrap_servers, config={"compression.type": compression}) as sink:
        sink.send_batch(values)

    assert np.array_equal(TrainingKafkaDataset(sink.control_message, cluster.bootstrap_servers, "g").values, values)


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


def test_nothing_is_committed_to_the_group(cluster):
    topic = cluster.new_topic()
    cluster.produce(topic, records(0, 5))
    list(RangeParser(f"{topic}:0:0:5").read_partitions(cluster.bootstrap_servers, "trainers"))

    groups = cluster.admin.list_consumer_groups(request_timeout=10).result().valid

    assert "trainers" not in {group.group_id for group in groups}


def test_dead_letters_of_two_workers_lie_in_their_topic_once(cluster):
    topic, left_out = cluster.new_topic(), cluster.new_topic()
    cluster.produce(topic, [(b"abc" if row % 10 == 7 else b"ab", b"k") for row in range(100)])
    decoder = (
        RangeParser(f"{topic}:0:0:100")
        .read_partitions(cluster.bootstrap_servers)
        .decode_bytes(
            "uint8", data_elements=2, on_error="dead-letter", dead_letter_payload=True,
            dead_letter=DeadLetterTopic(left_out, cluster.bootstrap_servers),
        )
    )  # fmt: skip

    good = sum(len(batch.offsets) for batch in DataLoader(decoder, batch_size=None, num_workers=2, collate_fn=as_it_is))

    stored = RangeParser(f"{left_out}:0:earliest:latest").read_partitions(cluster.bootstrap_servers, headers=True)
    letters = [item for batch in stored for item in zip(batch.values, batch.headers, strict=True)]
    assert (good, [value for value, _ in letters]) == (90, [b"abc"] * 10)
    assert sorted(int(dict(headers)["kafkapipes.offset"]) for _, headers in letters) == list(range(7, 100, 10))


def as_it_is(batch):
    """No collation, in a form that spawn could pickle."""
    return batch
