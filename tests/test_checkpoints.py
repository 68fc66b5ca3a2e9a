"""States: what they hold, and which are refused for which reason."""

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes.blocks import Cut, Order, Share
from kafkapipes.checkpoints import VERSION, Checkpoint, Log, StateWriter, merged, states_in
from kafkapipes.errors import StateError, TopicChangedError
from kafkapipes.ranges import parse_ranges

TEXT = "clicks:0:0:100,clicks:1:5:50,views:0:7:7"
START = Checkpoint(
    ranges=tuple(parse_ranges(TEXT)),
    topic_ids={"clicks": "id-1", "views": ""},
    logs=(Log(0, 100, 3, 120), Log(8, 50, -1, 50), Log(7, 7, 0, 9)),
    order=Order(block=16, batch=None, window=8, seed=5),
    epoch=2,
    share=Share(),
)


def changed(**fields):
    return Checkpoint(**{**START.__dict__, **fields})


def state(checkpoint=START, done=0, missing=0):
    return StateWriter(checkpoint).state(done, missing)


SHARES = [Share(rank, 2, worker, 3) for rank in range(2) for worker in range(3)]
STATES = [state(changed(share=share), done) for done, share in enumerate(SHARES)]


def test_a_state_holds_the_position_and_what_it_is_of_in_plain_values():
    assert state(changed(cuts=(Cut(((3, 4), (5, 6))),)), 17, 2) == {
        "version": 1, "ranges": TEXT, "topic_ids": {"clicks": "id-1", "views": ""},
        "logs": "0:100:3:120,8:50:-1:50,7:7:0:9",
        "order": {"block": 16, "batch": None, "window": 8, "seed": 5, "equal_ranks": None, "most": None},
        "epoch": 2, "cuts": [[[3, 4], [5, 6]]], "share": [0, 1, 0, 1], "done": 17, "missing": 2,
        "check": "a04d969f8db24f6a",
    }  # fmt: skip


@given(
    st.integers(0, 2**62),
    st.integers(0, 9),
    st.integers(0, 99),
    st.lists(st.lists(st.lists(st.integers(0, 2**62), min_size=2, max_size=2), min_size=1, max_size=3), max_size=2),
)
def test_a_checkpoint_comes_back_from_its_state_by_json_and_pickle(done, missing, epoch, cuts):
    wanted = changed(
        done=done, missing=missing, epoch=epoch, cuts=tuple(Cut(tuple(map(tuple, ranks))) for ranks in cuts)
    )
    made = state(wanted, done, missing)

    assert Checkpoint.from_state(json.loads(json.dumps(made))) == wanted
    assert Checkpoint.from_state(pickle.loads(pickle.dumps(made))) == wanted


def test_a_state_is_small_and_does_not_change_later():
    writer = StateWriter(START)
    first = writer.state(1, 0)
    kept = copy.deepcopy(first)
    writer.state(10**12, 0)

    assert first == kept
    assert len(json.dumps(first)) < 500


def test_a_stream_of_nothing_has_a_state_too():
    nothing = changed(ranges=(), logs=(), topic_ids={})

    assert Checkpoint.from_state(state(nothing)) == nothing


# Torn, changed, of another version


@pytest.mark.parametrize("name", list(state()))
def test_a_state_without_one_of_its_fields_is_refused(name):
    torn = state(done=7)
    del torn[name]

    with pytest.raises(StateError):
        Checkpoint.from_state(torn)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ranges", TEXT.replace("100", "101")), ("topic_ids", {"clicks": "id-2", "views": ""}), ("logs", "0:100:3:120"),
        ("order", {"block": 16, "batch": None, "window": 8, "seed": 6, "equal_ranks": None}), ("epoch", 3),
        ("cuts", [[[1]]]), ("share", [0, 1, 0, 2]), ("done", 8), ("done", "7"), ("missing", 1), ("check", "0" * 16),
        ("extra", 1),
    ],
)  # fmt: skip
def test_a_state_that_was_changed_is_refused(name, other):
    with pytest.raises(StateError, match="torn or was changed"):
        Checkpoint.from_state({**state(done=7), name: other})


@pytest.mark.parametrize("version", [0, VERSION + 1, "1.0", None])
def test_a_state_of_another_version_is_refused_by_its_number(version):
    with pytest.raises(StateError, match=f"is of version {version!r}, this kafkapipes reads version 1"):
        Checkpoint.from_state({**state(), "version": version})


@pytest.mark.parametrize("found", [None, {}, [], "state", 7, {"epoch": 1}, b"\x00"])
def test_what_is_no_state_is_refused(found):
    with pytest.raises(StateError, match="wanted a state of a stream"):
        Checkpoint.from_state(found)


def test_a_state_torn_at_any_byte_is_no_state():
    text = json.dumps(state(done=7))
    for length in range(len(text)):
        with pytest.raises((StateError, ValueError)):
            Checkpoint.from_state(json.loads(text[:length]))


# Of something else


def fits(checkpoint, other=START, declared=TEXT):
    checkpoint.check_fits(other, parse_ranges(declared))
    return True


def test_a_checkpoint_fits_where_only_the_position_and_the_log_have_moved_on():
    assert fits(changed(epoch=9, done=5, logs=(Log(0, 100, 2, 100),) * 3, share=SHARES[1]))


@pytest.mark.parametrize(
    "text",
    ["clicks:0:0:100,clicks:1:5:50", TEXT.replace("views", "other"), TEXT.replace("5:50", "5:51"), "clicks:0:0:100"],
)
def test_a_checkpoint_of_other_ranges_is_refused_and_both_are_named(text):
    with pytest.raises(StateError, match=r"of other ranges: it stands in clicks:0:0:100,.* wanted clicks"):
        fits(START, changed(ranges=tuple(parse_ranges(text))), text)


@pytest.mark.parametrize(
    "declared",
    ["clicks:*:earliest:latest,views:0:7:7", "clicks:0:0:latest,clicks:*:5:50,views:0:-3:@17", "clicks:*:*:latest"],
)
def test_words_for_bounds_fit_what_they_once_stood_for(declared):
    moved_on = changed(ranges=tuple(parse_ranges(TEXT.replace("50", "99"))))
    if declared == "clicks:*:*:latest":
        declared = "clicks:*:earliest:latest,views:*:earliest:latest"

    assert fits(START, moved_on, declared)


@pytest.mark.parametrize(
    "declared",
    [
        "clicks:*:earliest:latest", "clicks:*:earliest:60,views:0:7:7", "clicks:0:0:100,views:0:7:latest",
        "clicks:0:0:100,clicks:2:5:latest,views:0:7:7", "clicks:*:1:latest,views:0:7:7",
        "clicks:*:earliest:latest,views:0:7:7,views:1:earliest:latest",
    ],
)  # fmt: skip
def test_numbers_beside_words_must_fit(declared):
    with pytest.raises(StateError, match="of other ranges"):
        fits(START, changed(ranges=tuple(parse_ranges("clicks:0:0:7"))), declared)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"block": 17}, "block_records 16, the dataset has 17"), ({"batch": 4}, "batch_size None, the dataset has 4"),
        ({"window": 9}, "window_blocks 8, the dataset has 9"), ({"seed": 6}, "the shuffle 5, the dataset has 6"),
        ({"seed": None}, "the shuffle 5, the dataset has None"),
        ({"equal_ranks": "pad"}, "equal_ranks None, the dataset has 'pad'"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_order_is_refused_by_what_differs(field, said):
    order = Order(**{**START.order.__dict__, **field})

    with pytest.raises(StateError, match=said):
        fits(START, changed(order=order))


def test_a_topic_made_anew_is_refused_with_both_identities():
    with pytest.raises(TopicChangedError, match=r"topic clicks was deleted and made anew.*id-1, found id-9"):
        fits(START, changed(topic_ids={"clicks": "id-9", "views": "id-3"}))


@pytest.mark.parametrize("topic_ids", [{"clicks": "", "views": ""}, {"clicks": "id-1", "views": "id-3"}])
def test_an_identity_that_is_not_told_is_no_other(topic_ids):
    assert fits(START, changed(topic_ids=topic_ids))


# Of another reader


def test_a_reader_goes_on_at_its_own_state():
    found = Checkpoint.from_state(STATES[4])

    assert found.resumed_by(SHARES[4]) is found


def test_one_of_several_readers_is_not_another():
    with pytest.raises(
        StateError, match=r"worker 1 of 3 of rank 1 of 2, and this is worker 0 of 2 of rank 0 of 1.*merge_"
    ):
        Checkpoint.from_state(STATES[4]).resumed_by(Share(0, 1, 0, 2))


def test_the_state_of_the_only_reader_is_shared_out_to_several():
    resumed = Checkpoint.from_state(state(done=7)).resumed_by(SHARES[3])

    assert (resumed.cuts, resumed.share, resumed.done) == ((Cut(((7,),)),), SHARES[3], 0)


def test_states_of_all_readers_are_put_together_in_whatever_order():
    whole = merged([Checkpoint.from_state(found) for found in reversed(STATES)])

    assert (whole.cuts, whole.share) == ((Cut(((0, 1, 2), (3, 4, 5))),), None)
    assert merged([whole]) == whole
    assert whole.resumed_by(Share()).share == Share()


def test_ranks_may_have_different_numbers_of_workers():
    states = [*STATES[:3], state(changed(share=Share(1, 2, 0, 1)), 8)]

    assert merged([Checkpoint.from_state(found) for found in states]).cuts == (Cut(((0, 1, 2), (8,))),)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (STATES[:5], "of all 6 readers at one moment, found 5, and none of worker 2 of 3 of rank 1 of 2"),
        (STATES[:3], "of all 4 readers at one moment, found 3, and none of worker 0 of 1 of rank 1 of 2"),
        ([*STATES, STATES[0]], "one state of each reader, found two of worker 0 of 3 of rank 0 of 2"),
        ([*STATES[:5], state(changed(share=SHARES[5], epoch=3))], "several moments, epochs"),
        ([*STATES[:5], state(changed(share=Share(1, 2, 2, 4)))], "none of worker 0 of 4 of rank 1 of 2"),
        ([*STATES, state(changed(share=Share(0, 3, 0, 3)))], "different numbers of workers or ranks"),
        ([*STATES[:5], state(changed(share=None))], "several moments, epochs"),
    ],
)
def test_states_that_are_not_whole_are_not_put_together(states, said):
    with pytest.raises(StateError, match=said):
        merged([Checkpoint.from_state(found) for found in states])


def test_states_are_found_wherever_a_loader_puts_them():
    loaders = [{"_snapshot": {"w": {f"worker_{n}": {"x": found} for n, found in enumerate(STATES)}}, "n": [1, None]}]

    assert states_in(loaders) == STATES
    assert states_in({"a": 1}) == states_in("text") == []


def test_the_state_of_a_loader_that_has_gone_on_alone_is_refused():
    with pytest.raises(StateError, match=r"3 step\(s\) ahead"):
        states_in({"_snapshot": STATES, "_steps_since_snapshot": 3})
    assert states_in({"_snapshot": STATES, "_steps_since_snapshot": 0}) == STATES
