"""Records that are not what was declared, in each way to read, under each policy: counted, named, never a sample."""

import json

import confluent_kafka
import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaError, Message
from torch.utils.data import DataLoader

from kafkapipes import DecodeError, KafkaPipesError, RangeParser, TrainingKafkaDataset
from kafkapipes.testing import EmbeddedKafka

RECORDS = 1000
BATCH = 250  # so that records 249 and 250 lie on either side of a batch's edge
PLACES = [0, 249, 250, 500, 999]
WAYS = ["dataset", "chain-0", "chain-2"]
POISON = b"poison-never-shown"
CODES = sorted({code for name, code in vars(KafkaError).items() if isinstance(code, int) and name.isupper()})


def good(index):
    """A value of two big-endian numbers, both the index, and its key."""
    return np.array([index, index], ">u4").tobytes(), np.array(index, ">u4").tobytes()


class LetterFile:
    """A `dead_letter` that works in any process: it appends a line for each letter to a file, and one for each call."""

    def __init__(self, path):
        self.path = path

    def __call__(self, letters):
        with self.path.open("a") as file:
            file.write("".join(f"{letter.to_json()}\n" for letter in letters))

    @property
    def letters(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


def read(way, kafka, topic, config=None, *, records=RECORDS, **policies):
    """The (value, label) that arrive, labels as numbers or bytes, and the report where this process has it."""
    text = f"{topic}:0:0:{records}"
    config = config or {"data_type": ">u4", "label_type": ">u4", "data_reshape": "2", "label_reshape": "1"}
    if way == "dataset":
        message = {"topic": text, "input_config": config}
        dataset = TrainingKafkaDataset(message, kafka.bootstrap_servers, "faults", batch_records=BATCH, **policies)
        return [dataset[row] for row in range(len(dataset))], dataset.report
    reader = RangeParser(text).read_partitions(kafka.bootstrap_servers, batch_records=BATCH)
    shapes = {"data_elements": config.get("data_reshape"), "label_elements": config.get("label_reshape")}
    elements = {name: int(shape) for name, shape in shapes.items() if shape}
    decoder = reader.decode_bytes(config["data_type"], config.get("label_type"), **elements, **policies)
    workers = int(way[-1])
    return load(decoder.transform_samples(), workers), None if workers else reader.report


def load(samples, workers, start_method=None):
    """The samples that a DataLoader gives."""
    context = start_method if workers else None
    loader = DataLoader(
        samples, batch_size=None, num_workers=workers, collate_fn=as_it_is, multiprocessing_context=context
    )
    try:
        return list(loader)
    except KafkaPipesError as exc:
        # torch's frames refer to the error and so to themselves; freed by the garbage collector they take 5 s a worker.
        exc.__traceback__ = None
        raise


def as_it_is(sample):
    return sample


def labels(samples):
    return sorted(int(label) for _, label in samples)


@pytest.fixture(scope="module")
def kafka():
    with EmbeddedKafka() as kafka:
        for place in PLACES:
            rows = [good(index) for index in range(RECORDS)]
            rows[place] = (POISON, rows[place][1])
            kafka.fill(f"poison-{place}", rows)
        yield kafka


@pytest.mark.case(34)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_one_poison_record_in_a_thousand_ends_the_read_with_its_coordinates_and_without_its_contents(kafka, place, way):
    with pytest.raises(DecodeError, match=rf"at poison-{place}:0@{place}: .*wanted 8 bytes .*found 18") as caught:
        read(way, kafka, f"poison-{place}")
    assert "never-shown" not in str(caught.value)


@pytest.mark.case(34)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_one_poison_record_in_a_thousand_is_skipped_and_the_other_999_arrive_once(kafka, place, way):
    samples, report = read(way, kafka, f"poison-{place}", on_error="skip")

    assert labels(samples) == [index for index in range(RECORDS) if index != place]
    assert all((value == label).all() for value, label in samples)
    if report is not None:
        assert (report.delivered, report[0].skipped) == (999, {"on_error": 1})
        assert report[0].skipped_at == {"on_error": [f"poison-{place}:0@{place}"]}


@pytest.mark.case(34)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_one_poison_record_in_a_thousand_is_one_dead_letter_and_the_other_999_arrive_once(kafka, tmp_path, place, way):
    file = LetterFile(tmp_path / "letters")

    samples, _ = read(way, kafka, f"poison-{place}", on_error="dead-letter", dead_letter=file)

    assert labels(samples) == [index for index in range(RECORDS) if index != place]
    assert [(letter["offset"], letter["reason"], letter["error"]) for letter in file.letters] == [
        (place, "on_error", "DecodeError")
    ]
    assert "never-shown" not in str(file.letters)


@pytest.mark.case(34)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("config", "fine", "bad"),
    [
        ({"data_type": ">u4", "data_reshape": "2"}, b"12345678", b"1234567"),
        ({"data_type": ">u4", "data_reshape": "2"}, b"12345678", b""),
        ({"data_type": "string"}, "grün".encode(), b"gr\xfcn"),
        ({"data_type": "string"}, b"", b"\xc3"),
        ({"data_type": "bool", "data_reshape": "2"}, b"\x00\x01", b"\x01\x02"),
    ],
    ids=["short", "empty", "latin-1", "cut-utf8", "bool"],
)
def test_each_kind_of_poison_is_left_out_exactly(embedded, tmp_path, way, config, fine, bad):
    rows = [(bad if index in (0, 7, 8, 19) else fine, None) for index in range(20)]
    embedded.fill("kinds", rows)
    file = LetterFile(tmp_path / "letters")

    samples, _ = read(way, embedded, "kinds", config, records=20, on_error="dead-letter", dead_letter=file)

    assert len(samples) == 16
    assert sorted(letter["offset"] for letter in file.letters) == [0, 7, 8, 19]


@pytest.mark.case(34)
@pytest.mark.parametrize("way", WAYS)
def test_a_key_that_is_no_label_is_poison_too(embedded, way):
    rows = [good(index) for index in range(20)]
    rows[5] = (rows[5][0], POISON)
    embedded.fill("keys", rows)

    with pytest.raises(DecodeError, match=r"at keys:0@5: wanted a key \(the label\) that fits: wanted 4 bytes"):
        read(way, embedded, "keys", records=20)
    assert len(read(way, embedded, "keys", records=20, on_error="skip")[0]) == 19


@pytest.mark.case(34)
@pytest.mark.parametrize("way", WAYS)
def test_too_much_poison_ends_the_read_with_the_count(embedded, way):
    embedded.fill("flood", [good(0)] * 10 + [(POISON, good(0)[1])] * 90)

    with pytest.raises(DecodeError, match=r"at most 20 record\(s\) left out, found \d+ .*first at flood:0@\d+"):
        read(way, embedded, "flood", records=100, on_error="skip", max_skipped=20)


def refuse(letters):
    raise confluent_kafka.KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))


@pytest.mark.case(37)
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("policies", "name", "text"),
    [
        ({}, "DecodeError", r"at kinds:0@\d+: wanted a value that fits"),
        ({"on_error": "skip", "max_skipped": 3}, "DecodeError", r"at most 3 record\(s\) left out, found"),
        ({"on_error": "dead-letter", "dead_letter": refuse}, "DeliveryError", "dead_letter raised KafkaException"),
    ],
    ids=["poison", "limit", "dead-letter"],
)
def test_an_error_in_a_worker_arrives_with_its_class_and_text(embedded, start_method, policies, name, text):
    embedded.fill("kinds", [(POISON, None)] * 100)
    reader = RangeParser("kinds:0:0:100").read_partitions(embedded.bootstrap_servers)
    samples = reader.decode_bytes("uint8", data_elements=2, **policies).transform_samples()

    with pytest.raises(KafkaPipesError, match=text) as caught:
        load(samples, 2, start_method)
    assert type(caught.value).__name__ == name


@pytest.fixture
def odd_records(embedded):
    """A value and a key that are null, empty or there, in every pair; headers that repeat a name and hold a null."""
    embedded.create_topic("odd")
    producer = confluent_kafka.Producer({"bootstrap.servers": embedded.bootstrap_servers})
    for value in (None, b"", b"v"):
        for key in (None, b"", b"k"):
            producer.produce("odd", value, key, 0, headers=[("a", b"1"), ("a", None), ("a", b""), ("b", b"2")])
    producer.flush(10)
    return embedded


@pytest.mark.case(33)
def test_null_is_not_empty_and_headers_keep_their_order_and_nulls(odd_records):
    reader = RangeParser("odd:0:0:9").read_partitions(odd_records.bootstrap_servers, headers=True)

    rows = [row for batch in reader for row in zip(batch.values, batch.keys, batch.headers, strict=True)]

    assert [row[:2] for row in rows] == [(value, key) for value in (None, b"", b"v") for key in (None, b"", b"k")]
    assert [row[2] for row in rows] == [[("a", b"1"), ("a", None), ("a", b""), ("b", b"2")]] * 9


BYTES = {"data_type": "bytes", "label_type": "bytes"}


@pytest.mark.case(33)
@pytest.mark.parametrize("way", WAYS)
def test_a_tombstone_ends_the_read_and_an_empty_value_does_not(odd_records, way):
    with pytest.raises(DecodeError, match=r"at odd:0@0: .*found null \(a tombstone\)"):
        read(way, odd_records, "odd", BYTES, records=9)
    with pytest.raises(DecodeError, match=r"at odd:0@[36]: wanted a key that holds the label, found null"):
        read(way, odd_records, "odd", BYTES, records=9, tombstone="skip")


@pytest.mark.case(33)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["skip", "dead-letter"])
def test_tombstones_and_null_keys_are_left_out_and_empty_ones_are_samples(odd_records, tmp_path, way, policy):
    file = LetterFile(tmp_path / "letters")
    option = {"dead_letter": file} if policy == "dead-letter" else {}

    samples, report = read(way, odd_records, "odd", BYTES, records=9, tombstone=policy, null_key=policy, **option)

    assert sorted(samples) == [(b"", b""), (b"", b"k"), (b"v", b""), (b"v", b"k")]
    left_out = [(0, "tombstone"), (1, "tombstone"), (2, "tombstone"), (3, "null_key"), (6, "null_key")]
    if policy == "dead-letter":
        assert sorted((letter["offset"], letter["reason"]) for letter in file.letters) == left_out
    if report is not None:
        assert report[0].skipped == {"tombstone": 3, "null_key": 2}


@pytest.mark.case(33)
@pytest.mark.parametrize("way", WAYS)
def test_without_labels_a_null_key_does_not_matter(odd_records, way):
    samples, _ = read(way, odd_records, "odd", {"data_type": "bytes"}, records=9, tombstone="skip")

    assert sorted(samples) == [b"", b"", b"", b"v", b"v", b"v"]


class LyingConsumer(Consumer):
    """Puts an error among the records of its first answers, with a text for a value that would decode as a record."""

    code = 0
    told = 0

    def consume(self, count, timeout):
        messages = super().consume(count, timeout)
        if messages and self.told < 2:
            self.told += 1
            error = Message(
                topic=messages[0].topic(), partition=messages[0].partition(), offset=messages[0].offset(),
                key=b"eeee", value=b"error!!!", error=KafkaError(self.code, "error!!!"),
            )  # fmt: skip
            messages.insert(len(messages) // 2, error)
        return messages


@pytest.fixture(scope="module")
def plain():
    with EmbeddedKafka() as kafka:
        kafka.fill("plain", [good(index) for index in range(20)])
        yield kafka


def read_with_lies(monkeypatch, kafka, code, way):
    monkeypatch.setattr("kafkapipes.kafka.native.Consumer", LyingConsumer)
    monkeypatch.setenv("KAFKAPIPES_CLIENT", "python")
    monkeypatch.setattr(LyingConsumer, "code", code)
    try:
        return labels(read(way, kafka, "plain", records=20)[0])
    except KafkaPipesError as exc:
        return exc


@pytest.mark.case(35)
@pytest.mark.parametrize("code", CODES)
def test_no_error_message_is_ever_a_record(monkeypatch, plain, code):
    outcome = read_with_lies(monkeypatch, plain, code, "chain-0")

    assert isinstance(outcome, KafkaPipesError) or outcome == list(range(20))


@pytest.mark.case(35)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("code", "passes"),
    [(KafkaError._TRANSPORT, True), (KafkaError.GROUP_AUTHORIZATION_FAILED, True), (KafkaError._BAD_MSG, False)],
    ids=["passing", "harmless", "terminal"],
)
def test_an_error_message_among_records_is_an_error_or_nothing_in_each_way_to_read(
    monkeypatch, plain, code, passes, way
):
    outcome = read_with_lies(monkeypatch, plain, code, way)

    assert (outcome == list(range(20))) if passes else (type(outcome).__name__ == "CorruptDataError")
