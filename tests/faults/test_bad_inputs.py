"""At least 200 bad inputs: each must end soon, in the right error, with a text that helps and shows no secret."""

import pickle
import time
import traceback

import pytest

from kafkapipes import DecodeError
from tests.faults.bad_inputs import CANARY, MALICIOUS
from tests.faults.bad_inputs.configurations import CONFIGURATIONS
from tests.faults.bad_inputs.control_messages import CONTROL_MESSAGES
from tests.faults.bad_inputs.payloads import PAYLOADS, PAYLOADS_ALONE, Payload
from tests.faults.bad_inputs.range_texts import RANGE_TEXTS
from tests.faults.bad_inputs.types_and_shapes import TYPES_AND_SHAPES

OTHERS = [*RANGE_TEXTS, *TYPES_AND_SHAPES, *PAYLOADS_ALONE, *CONFIGURATIONS]
BAD_INPUTS = [*OTHERS, *CONTROL_MESSAGES]
SOON_S = 5.0  # most take a millisecond; a machine may be busy
LONGEST = 2000  # characters of an error


@pytest.mark.parametrize("bad", OTHERS, ids=lambda bad: bad.name)
def test_a_bad_input_ends_soon_in_an_error_that_says_what_was_wanted_and_shows_no_secret(bad):
    check(bad)


@pytest.mark.case(51)
@pytest.mark.parametrize("bad", CONTROL_MESSAGES, ids=lambda bad: bad.name)
def test_a_bad_control_message_ends_soon_in_an_error_that_says_what_was_wanted_and_shows_no_secret(bad):
    check(bad)


def check(bad):
    began = time.monotonic()

    with pytest.raises(bad.error) as caught:
        bad.give()

    text = str(caught.value)
    assert type(caught.value) is bad.error
    assert not [piece for piece in bad.texts if piece not in text], text
    assert time.monotonic() - began < SOON_S
    assert len(text) < LONGEST
    assert all(char.isprintable() or char == "\n" for char in text)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_there_are_at_least_two_hundred_bad_inputs_all_different():
    assert len({bad.name for bad in BAD_INPUTS}) == len(BAD_INPUTS) >= 200


def test_a_pickle_among_bytes_stays_bytes():
    pickled = Payload("a pickle for bytes", MALICIOUS, ("bytes", None), (), MALICIOUS, ("bytes", None))

    (arrays,) = pickled.decode_alone()

    assert (list(arrays.values), list(arrays.labels)) == ([MALICIOUS], [MALICIOUS])


def test_the_pickle_of_these_tests_does_run_where_it_is_loaded():
    with pytest.raises(SystemExit, match="a pickle was run"):
        pickle.loads(MALICIOUS)


@pytest.mark.parametrize("payload", PAYLOADS[::3], ids=lambda payload: payload.name)
def test_a_bad_payload_that_went_through_kafka_ends_in_the_same_error(payload, embedded):
    with pytest.raises(DecodeError) as alone:
        payload.decode_alone()
    with pytest.raises(DecodeError) as caught:
        payload.decode_from(embedded)

    assert str(caught.value).splitlines()[0] == str(alone.value).splitlines()[0]
