import struct
from base64 import b64encode

import pytest

from kafkapipes.kafka.protocol import (
    ProtocolError,
    Question,
    fetch_question,
    fetched,
    first_batch,
    identity_of,
    identity_question,
    leader_of,
    metadata_question,
)
from tests.kafka.broker import batch, fetch_answer, identity_answer, metadata_answer, plain, record

QUESTION = Question(5, "me", "t", 0)
IDENTITY = bytes(range(240, 256))


def test_a_question_is_framed_by_its_size_and_names_kind_version_number_and_client():
    for framed, kind in ((metadata_question(QUESTION), 3), (fetch_one(), 1)):
        assert struct.unpack_from(">ihhih2s", framed) == (len(framed) - 4, kind, 4, 5, 2, b"me")


def fetch_one():
    return fetch_question(QUESTION, 17, 3, 1000, reads_committed=True)


def test_metadata_is_asked_of_one_topic_which_must_not_be_created():
    assert metadata_question(QUESTION)[16:] == struct.pack(">ih1s?", 1, 1, b"t", False)


def test_an_identity_is_asked_of_one_topic_which_must_not_be_created():
    long = "t" * 200
    for topic, length in (("t", b"\x02"), (long, b"\xc9\x01")):
        framed = identity_question(Question(5, "me", topic, -1))

        assert struct.unpack_from(">ihhih2s", framed) == (len(framed) - 4, 3, 10, 5, 2, b"me")
        assert framed[16:] == b"\0\x02" + bytes(16) + length + topic.encode() + b"\0" + b"\0\0\0" + b"\0"


@pytest.mark.parametrize("brokers", [0, 1, 3, 200])
@pytest.mark.parametrize("tags", [b"\0", b"\x02" + b"\x07\x03abc" + b"\x80\x01\0"])
def test_the_identity_of_the_topic_is_found(brokers, tags):
    answer = identity_answer(5, IDENTITY, brokers=brokers, tags=tags)

    assert identity_of(memoryview(answer), QUESTION) == b64encode(IDENTITY).decode().rstrip("=")


@pytest.mark.parametrize("other", [{"topic": "u"}, {"topic": None}, {"error": 3}])
def test_no_identity_of_another_topic_and_none_beside_an_error_is_taken(other):
    with pytest.raises(ProtocolError, match="no identity of this topic"):
        identity_of(memoryview(identity_answer(5, IDENTITY, **other)), QUESTION)


def test_a_length_of_more_than_five_bytes_is_refused():
    with pytest.raises(ProtocolError, match="five bytes"):
        identity_of(memoryview(struct.pack(">i", 5) + b"\xff" * 9), QUESTION)


def test_a_fetch_is_of_one_partition_from_an_offset_within_bounds():
    assert fetch_one()[16:] == struct.pack(">iiii?ih1siiqi", -1, 3, 1, 1000, True, 1, 1, b"t", 1, 0, 17, 1000)


def test_the_leader_of_the_partition_is_found():
    assert leader_of(memoryview(metadata_answer(5, ("there", 9092))), QUESTION) == ("there", 9092)


@pytest.mark.parametrize("other", [{"topic": "u"}, {"partition": 1}, {"error": 5}])
def test_no_other_leader_is_taken(other):
    with pytest.raises(ProtocolError, match="no leader"):
        leader_of(memoryview(metadata_answer(5, ("there", 9092), **other)), QUESTION)


def test_the_batches_begin_behind_what_is_said_of_the_partition():
    batches = plain(0, [b"a"])
    answer = fetch_answer(5, batches, high=9, stable=7, throttled_ms=4, error=3)

    found = fetched(memoryview(answer), QUESTION, reads_committed=True)

    assert (found.error, found.throttled_ms, found.end, found.has_aborted) == (3, 4, 7, False)
    assert answer[found.begin :] == batches
    assert fetched(memoryview(answer), QUESTION, reads_committed=False).end == 9


def test_the_first_batch_tells_its_bytes_and_its_offsets():
    first = batch(7, [record(0, b"a"), record(4, b"b")], last=6)

    assert first_batch(memoryview(first + plain(14, [b"c"]))) == (len(first), 7)
    assert first_batch(memoryview(first[:27])) == (len(first), 7)


def test_a_batch_without_its_head_or_of_senseless_size_tells_nothing():
    whole = plain(0, [b"a"])
    senseless = whole[:8] + b"\xff" * 4 + whole[12:]

    assert [first_batch(memoryview(data)) for data in (b"", whole[:26], senseless)] == [(0, 0)] * 3


def test_aborted_transactions_are_told():
    aborted = struct.pack(">iqqqq", 2, 1, 10, 2, 20)
    found = fetched(memoryview(fetch_answer(5, b"x", aborted=aborted)), QUESTION, reads_committed=True)

    assert (found.has_aborted, found.begin) == (True, len(fetch_answer(5, b"", aborted=aborted)))


@pytest.mark.parametrize("other", [{"topic": "u"}, {"partition": 1}])
def test_the_records_of_another_partition_are_refused(other):
    with pytest.raises(ProtocolError, match="another partition"):
        fetched(memoryview(fetch_answer(5, b"", **other)), QUESTION, reads_committed=True)


def test_the_answer_to_another_question_is_refused():
    with pytest.raises(ProtocolError, match="another question"):
        fetched(memoryview(fetch_answer(6, b"")), QUESTION, reads_committed=True)


def test_an_answer_that_is_cut_off_or_too_long_is_refused_wherever():
    fetch, metadata = fetch_answer(5, b"batches"), metadata_answer(5, ("there", 9092))
    identity = identity_answer(5, IDENTITY)
    for size in range(len(identity)):
        with pytest.raises(ProtocolError):
            identity_of(memoryview(identity[:size]), QUESTION)
    for size in range(len(fetch)):
        with pytest.raises(ProtocolError):
            fetched(memoryview(fetch[:size]), QUESTION, reads_committed=True)
    with pytest.raises(ProtocolError, match="7 bytes of records, found 8"):
        fetched(memoryview(fetch + b"x"), QUESTION, reads_committed=True)
    for size in range(len(metadata)):
        with pytest.raises(ProtocolError):
            leader_of(memoryview(metadata[:size]), QUESTION)


def test_sizes_below_nothing_are_refused():
    answer = metadata_answer(5, ("there", 9092))[:-8] + struct.pack(">ii", -5, 7)
    with pytest.raises(ProtocolError, match="amid a field"):
        leader_of(memoryview(answer), QUESTION)
