import json
import pickle

import numpy as np
import pytest

from kafkapipes.dead_letters import DeadLetter, LeftOut, RecordPolicies
from kafkapipes.errors import AuthError, ConfigError, DecodeError, DeliveryError
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import BytesColumn, RecordBatch
from kafkapipes.report import RangeReport


def batch(count, first=100):
    account = RangeReport(OffsetRange("t", 3, first, first + count), 0, 10**6)
    values = BytesColumn.from_list([b"secret-value"] * count)
    keys = BytesColumn.from_list([b"secret-key"] * count)
    return RecordBatch(np.arange(first, first + count), keys, values, account)


def leave_out(records, rows, policies, policy="on_error", left_out=None):
    left_out = left_out or LeftOut(policies)
    wrong = np.isin(np.arange(len(records)), rows)
    left = left_out.without(records, wrong, policy, lambda row: f"wanted 4 bytes, found {row}")
    left_out.settle()
    return left


def refuse(letters):
    raise OSError("the disk is full")


def test_a_batch_with_nothing_wrong_is_handed_on_as_it_is():
    records, taken = batch(3), []

    assert leave_out(records, [], RecordPolicies(on_error="dead-letter", dead_letter=taken.append)) is records
    assert taken == []


def test_a_dead_letter_has_coordinates_reason_class_and_sizes_and_no_payload():
    letters = []

    left = leave_out(batch(4), [1, 3], RecordPolicies(on_error="dead-letter", dead_letter=letters.extend))

    assert left.offsets.tolist() == [100, 102]
    assert letters == [
        DeadLetter("t", 3, 101, "on_error", "DecodeError", "wanted 4 bytes, found 1"),
        DeadLetter("t", 3, 103, "on_error", "DecodeError", "wanted 4 bytes, found 3"),
    ]
    assert "secret" not in str(letters) + "".join(letter.to_json() for letter in letters)


def test_the_payload_comes_along_on_request_and_shows_in_no_repr():
    letters = []
    policies = RecordPolicies(on_error="dead-letter", dead_letter=letters.extend, dead_letter_payload=True)

    leave_out(batch(1), [0], policies)

    assert (letters[0].key, letters[0].value) == (b"secret-key", b"secret-value")
    assert "secret" not in repr(letters)
    assert json.loads(letters[0].to_json()) == {
        "topic": "t", "partition": 3, "offset": 100, "reason": "on_error", "error": "DecodeError",
        "text": "wanted 4 bytes, found 0", "key": "c2VjcmV0LWtleQ==", "value": "c2VjcmV0LXZhbHVl",
    }  # fmt: skip


def test_a_dead_letter_comes_back_from_pickling_as_it_was():
    letter = DeadLetter("t", 3, 101, "on_error", "DecodeError", "wanted", b"key", None)

    assert pickle.loads(pickle.dumps(letter)) == letter


def test_a_callable_that_raises_ends_the_read_with_its_own_error_named():
    with pytest.raises(DeliveryError, match=r"OSError: the disk is full; .*1 letter.*the first for t:3@102") as caught:
        leave_out(batch(5), [2], RecordPolicies(on_error="dead-letter", dead_letter=refuse))

    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_of_our_own_from_the_callable_keeps_its_class():
    def denied(letters):
        raise AuthError("who are you")

    with pytest.raises(AuthError, match="who are you"):
        leave_out(batch(5), [2], RecordPolicies(on_error="dead-letter", dead_letter=denied))


def test_a_read_ends_when_it_leaves_out_more_records_than_allowed():
    left_out = LeftOut(RecordPolicies(on_error="skip", tombstone="skip", max_skipped=3))
    leave_out(batch(5), [1, 2], None, left_out=left_out)
    leave_out(batch(5, 200), [0], None, "tombstone", left_out=left_out)

    with pytest.raises(
        DecodeError, match=r"at most 3 record.*found 5 .*first at t:3@101, the last by tombstone at t:3@304"
    ):
        leave_out(batch(5, 300), [3, 4], None, "tombstone", left_out=left_out)


def test_none_may_be_left_out_where_the_limit_is_none_at_all_and_the_letter_is_still_handed_over():
    letters = []
    policies = RecordPolicies(on_error="dead-letter", dead_letter=letters.extend, max_skipped=0)

    with pytest.raises(DecodeError, match="at most 0 record"):
        leave_out(batch(2), [1], policies)
    assert [letter.offset for letter in letters] == [101]


@pytest.mark.parametrize("policy", ["on_error", "tombstone", "null_key"])
def test_an_unknown_policy_is_refused_with_the_choices(policy):
    with pytest.raises(ConfigError, match=f"{policy} is 'ignore', wanted one of 'raise', 'skip', 'dead-letter'"):
        RecordPolicies(**{policy: "ignore"})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_error": "dead-letter"}, "on_error is 'dead-letter', but there is no dead_letter"),
        ({"dead_letter": refuse}, "none of on_error, tombstone, null_key is 'dead-letter'"),
        ({"dead_letter": refuse, "on_error": "skip"}, "none of on_error, tombstone, null_key is 'dead-letter'"),
        ({"dead_letter_payload": True}, "dead_letter_payload is True, but there is no dead_letter"),
        ({"dead_letter": "topic", "on_error": "dead-letter"}, "dead_letter is a str, wanted a callable"),
        ({"dead_letter": refuse, "on_error": "dead-letter", "dead_letter_payload": 1}, "wanted True or False"),
        ({"max_skipped": -1}, "max_skipped is -1, wanted a whole number from 0"),
        ({"max_skipped": True}, "max_skipped is True"),
        ({"max_skipped": 0.5}, "max_skipped is 0.5"),
    ],
)
def test_policies_that_do_not_go_together_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        RecordPolicies(**options)
