import itertools
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler, WeightedRandomSampler

from kafkapipes import ConfigError
from kafkapipes.order import EpochSampler, Position, check_sampler, read_indices, read_state, share, write_state

START = Position(0)


def rest(sampler, start=START, step=3, length=10):
    return [indices.tolist() for indices in read_indices(sampler, start, step, length)]


def test_orders_are_the_same_in_every_process_and_on_every_machine():
    """A release of torch that draws others shows here."""
    orders = [EpochSampler(10, True, seed).order(epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (7, 2))]

    assert orders == [
        [4, 1, 7, 5, 3, 9, 0, 8, 6, 2],
        [5, 6, 1, 2, 0, 8, 9, 3, 7, 4],
        [0, 5, 8, 7, 6, 2, 9, 1, 4, 3],
    ]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 3), (5, 1)])
def test_a_shuffled_order_is_that_of_torchs_own_distributed_sampler(seed, epoch):
    theirs = DistributedSampler(range(1000), num_replicas=1, rank=0, seed=seed)
    theirs.set_epoch(epoch)

    assert EpochSampler(1000, True, seed).order(epoch).tolist() == list(theirs)


def test_without_shuffle_every_epoch_is_in_order():
    assert EpochSampler(4, False, 0).order(7).tolist() == [0, 1, 2, 3]


def test_a_sampler_serves_a_dataloader_and_keeps_its_epoch_until_told():
    sampler = EpochSampler(100, True, 0)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)

    assert first == again != list(sampler)
    assert len(sampler) == 100
    assert repr(sampler) == "EpochSampler(100 samples, shuffled with seed 0)"


def test_no_global_generator_is_touched():
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    EpochSampler(100, True, 0).order(0)

    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("seed", [-1, 1.0, None, True, 2**63])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ConfigError, match="seed is"):
        EpochSampler(3, True, seed)


@pytest.mark.parametrize("epoch", [-1, 1.0, "1"])
def test_an_epoch_that_is_none_is_refused(epoch):
    with pytest.raises(ConfigError, match="epoch is"):
        EpochSampler(3, True, 0).set_epoch(epoch)


@pytest.mark.parametrize(
    ("length", "world_size", "shares"),
    [
        (4, 1, [[0, 1, 2, 3]]),
        (4, 2, [[0, 2], [1, 3]]),
        (5, 2, [[0, 2, 4], [1, 3, 0]]),
        (1, 3, [[0], [0], [0]]),
    ],
)
def test_ranks_get_as_many_each_and_every_index_is_somebodys(length, world_size, shares):
    assert [share(np.arange(length), rank, world_size).tolist() for rank in range(world_size)] == shares


@pytest.mark.parametrize("length", [1023, 1024, 1025, 3000])
@pytest.mark.parametrize("step", [1, 100, 1024, 5000])
def test_a_position_does_not_depend_on_the_steps_that_led_there(length, step):
    order = EpochSampler(length, True, 0).order(0)
    position = Position(4)
    for first in range(0, length, step):
        position = position.behind(order[first : first + step])

    assert position == Position(4).behind(order)
    assert position.delivered == length


@pytest.mark.parametrize("sampler", [EpochSampler(10, False, 0), range(10), list(range(10)), torch.arange(10)])
def test_indices_come_in_steps_the_last_shorter(sampler):
    assert rest(sampler) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


@pytest.mark.parametrize("sampler", [EpochSampler(10, False, 0), range(10)])
def test_indices_go_on_behind_a_position(sampler):
    assert rest(sampler, Position(0).behind(np.arange(4))) == [[4, 5, 6], [7, 8, 9]]
    assert rest(sampler, Position(0).behind(np.arange(10))) == []


def test_negative_indices_count_from_the_end():
    assert rest([-1, 0, -10]) == [[9, 0, 0]]


@pytest.mark.parametrize("index", [10, -11])
def test_an_index_outside_is_an_index_error(index):
    with pytest.raises(IndexError, match=rf"list: wanted indices from -10 to 9, found {index}"):
        rest([0, index])


@pytest.mark.parametrize("index", [1.5, "1", None, [1, 2]])
def test_what_is_no_index_is_a_type_error(index):
    with pytest.raises(TypeError):
        rest([0, index])


class Counting:
    """Endless; notes how far it was asked."""

    def __iter__(self):
        for self.asked in itertools.count(1):
            yield self.asked % 10


def test_a_sampler_is_asked_for_no_more_than_is_needed():
    sampler = Counting()
    indices = read_indices(sampler, Position(0), 4, 10)

    assert (next(indices).tolist(), sampler.asked) == ([1, 2, 3, 4], 4)
    assert (next(indices).tolist(), sampler.asked) == ([5, 6, 7, 8], 8)


@pytest.mark.parametrize("length", [3, 7])
def test_a_sampler_that_gives_others_than_before_is_refused(length):
    start = Position(2).behind(np.arange(5))

    with pytest.raises(ConfigError, match="behind 5 samples of epoch 2, found that list gives others, or fewer"):
        rest([*range(length)][::-1], start)


def test_an_order_of_other_random_numbers_is_refused():
    start = Position(0).behind(EpochSampler(100, True, 0).order(0)[:5])

    with pytest.raises(ConfigError, match="gives others"):
        rest(EpochSampler(100, True, 1), start, length=100)


@pytest.mark.parametrize("sampler", [iter([1]), (number for number in range(3)), 5, None])
def test_what_cannot_be_iterated_anew_is_no_sampler(sampler):
    with pytest.raises(ConfigError, match=r"sampler is .* wanted what gives indices anew"):
        check_sampler(sampler)


def test_a_state_is_json_and_comes_back():
    sampler = EpochSampler(50, True, 3)
    position = Position(2).behind(np.arange(20))
    state = json.loads(json.dumps(write_state(position, sampler)))

    assert read_state(state, sampler) == position
    assert state == {
        "version": 1, "sampler": "EpochSampler(50 samples, shuffled with seed 3)", "epoch": 2, "delivered": 20,
        "checksum": 3070449471,
    }  # fmt: skip


STATE = write_state(Position(1).behind(np.arange(20)), EpochSampler(50, True, 3))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (None, "the state is None, wanted what state_dict returns"),
        ({}, "a dictionary of checksum, delivered, epoch, sampler, version, of version 1"),
        ({**STATE, "version": 2}, "of version 1"),
        ({**STATE, "more": 1}, "wanted what state_dict returns"),
        ({name: STATE[name] for name in list(STATE)[:-1]}, "wanted what state_dict returns"),
        ({**STATE, "delivered": -1}, "delivered of the state is -1"),
        ({**STATE, "epoch": "1"}, "epoch of the state is '1'"),
        ({**STATE, "checksum": None}, "checksum of the state is None"),
        ({**STATE, "sampler": "RandomSampler"}, "taken with 'RandomSampler', this loader has EpochSampler"),
    ],
)
def test_a_torn_or_foreign_state_is_refused(state, text):
    with pytest.raises(ConfigError, match=text):
        read_state(state, EpochSampler(50, True, 3))


@pytest.mark.parametrize("other", [EpochSampler(51, True, 3), EpochSampler(50, True, 4), EpochSampler(50, False, 3)])
def test_a_state_of_another_length_seed_or_shuffle_is_refused(other):
    with pytest.raises(ConfigError, match=r"taken with 'EpochSampler\(50 samples, shuffled with seed 3\)'"):
        read_state(STATE, other)


def test_a_state_names_a_sampler_that_is_not_ours_by_its_class():
    state = write_state(Position(0), WeightedRandomSampler([1.0, 1.0], 2))

    assert state["sampler"] == "WeightedRandomSampler"
