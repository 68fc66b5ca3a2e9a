"""Columns of tensors stand in for a dataset: what needs a broker is in test_dataset."""

import itertools
import json
import multiprocessing
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from kafkapipes import BytesColumn, BytesTensor, ConfigError, TensorLoader, TextColumn
from kafkapipes.loader import _pinned, take


@dataclass
class Samples:
    values: Any
    labels: Any = None
    transform: Any = None
    label_transform: Any = None

    def __len__(self):
        return len(self.values)


def numbers(length):
    return Samples(torch.arange(length))


def images(length, **options):
    """Image i is full of i; its label is 2 i."""
    values = torch.arange(length, dtype=torch.uint8)[:, None, None].repeat(1, 2, 3)
    return Samples(values, torch.arange(length, dtype=torch.int16) * 2, **options)


def rest(loader):
    return [batch.tolist() for batch in loader]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def flat(loader):
    return joined(rest(loader))


# Batches


def test_a_batch_is_values_and_labels_in_the_types_of_the_dataset():
    values, labels = next(iter(TensorLoader(images(10), batch_size=4)))

    assert (values.shape, values.dtype, values[:, 0, 0].tolist()) == ((4, 2, 3), torch.uint8, [0, 1, 2, 3])
    assert (labels.dtype, labels.tolist()) == (torch.int16, [0, 2, 4, 6])


def test_without_labels_a_batch_is_the_values():
    assert rest(TensorLoader(numbers(5), batch_size=2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16, torch.int64, torch.float16, torch.complex64])
def test_every_type_that_a_dataset_may_have_is_kept(dtype):
    column = torch.arange(6).reshape(3, 2).to(dtype)

    (batch,) = TensorLoader(Samples(column), batch_size=3)

    assert batch.dtype == dtype
    assert torch.equal(batch, column)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 20, 21])
@pytest.mark.parametrize("length", [0, 1, 20])
def test_the_length_is_the_number_of_batches(length, batch_size, world_size, drop_last):
    loader = TensorLoader(numbers(length), batch_size, drop_last=drop_last, rank=0, world_size=world_size)

    assert len(list(loader)) == len(loader)


def test_a_smaller_last_batch_can_be_left_out():
    assert rest(TensorLoader(numbers(5), batch_size=2, drop_last=True)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("drop_last", "batches"), [(False, [[0, 1, 2]]), (True, [])])
def test_a_batch_may_be_larger_than_the_dataset(drop_last, batches):
    assert rest(TensorLoader(numbers(3), batch_size=100, drop_last=drop_last)) == batches


def test_an_empty_dataset_has_no_batch():
    loader = TensorLoader(images(0), batch_size=4, shuffle=True)

    assert (list(loader), list(loader), len(loader)) == ([], [], 0)


@pytest.mark.parametrize("batch_size", [2, 10])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_is_a_copy_that_may_be_changed_in_place(batch_size, shuffle):
    dataset = images(10)
    for values, labels in TensorLoader(dataset, batch_size, shuffle):
        values += 100
        labels += 100

    assert torch.equal(dataset.values, images(10).values)
    assert torch.equal(dataset.labels, images(10).labels)


def test_a_batch_lives_on_when_the_next_has_come():
    first, second = TensorLoader(numbers(4), batch_size=2)

    assert (first.tolist(), second.tolist()) == ([0, 1], [2, 3])


def test_a_shared_dataset_is_loaded_from_where_it_has_moved():
    dataset = numbers(4)
    loader = TensorLoader(dataset, batch_size=4)
    list(loader)
    dataset.values.share_memory_()
    dataset.values[0] = 9

    assert rest(loader) == [[9, 1, 2, 3]]


def test_strings_and_bytes_come_as_lists():
    words = BytesTensor(TextColumn.from_list(["grün".encode(), b"", b"three"]))
    blobs = BytesTensor(BytesColumn.from_list([b"\xff\x00", b"b", b""]))

    assert list(TensorLoader(Samples(words, blobs), batch_size=2)) == [
        (["grün", ""], [b"\xff\x00", b"b"]), (["three"], [b""]),
    ]  # fmt: skip


def test_strings_may_be_labels_of_tensors():
    dataset = Samples(torch.arange(3), BytesTensor(TextColumn.from_list([b"a", b"b", b"c"])))

    ((values, labels),) = TensorLoader(dataset, batch_size=3, shuffle=True)

    assert labels == ["abc"[number] for number in values]


# Transforms


def scaled(image):
    image *= 2  # in place: what a transform gets is its own
    return torch.from_numpy(image)[None] / 4


@pytest.mark.parametrize(
    "options", [{"transform": scaled}, {"label_transform": float}, {"transform": scaled, "label_transform": str}]
)
def test_the_datasets_transforms_are_called_for_each_sample_as_by_a_dataloader(options):
    dataset = images(10, **options)
    samples = (
        [(dataset.transform or torch.from_numpy)(value.numpy().copy()) for value in dataset.values],
        list(map(dataset.label_transform or int, dataset.labels.numpy())),
    )
    expected = DataLoader(list(zip(*samples, strict=True)), batch_size=4)

    for (values, labels), (their_values, their_labels) in zip(TensorLoader(dataset, 4), expected, strict=True):
        assert torch.equal(values, their_values)
        assert list(labels) == list(their_labels)
    assert torch.equal(dataset.values, images(10).values)


def test_a_label_transform_gets_scalars():
    seen = []
    list(TensorLoader(images(2, label_transform=lambda label: seen.append(label) or 0), batch_size=2))

    assert seen == [0, 2]
    assert [type(label) for label in seen] == [np.int16, np.int16]


def test_a_transform_of_strings_gets_strings():
    words = BytesTensor(TextColumn.from_list([b"a", b"bcd"]))

    assert rest(TensorLoader(Samples(words, transform=len), batch_size=2)) == [[1, 3]]


def test_a_batch_transform_gets_values_and_labels_and_makes_the_batch():
    def halves(values, labels):
        return {"half": values / 2, "labels": labels}

    batches = list(TensorLoader(images(4), batch_size=2, batch_transform=halves))

    assert batches[1]["half"][:, 0, 0].tolist() == [1.0, 1.5]
    assert batches[1]["labels"].tolist() == [4, 6]


def test_without_labels_a_batch_transform_gets_the_values_alone():
    assert rest(TensorLoader(numbers(3), batch_size=3, batch_transform=torch.neg)) == [[0, -1, -2]]


def test_a_batch_transform_comes_behind_the_transforms_of_samples():
    dataset = Samples(torch.arange(3), transform=lambda value: value + 1)

    assert rest(TensorLoader(dataset, batch_size=3, batch_transform=lambda values: values * 10)) == [[10, 20, 30]]


def test_a_batch_whose_transform_fails_is_not_delivered():
    def fail_at_four(values):
        if 4 in values:
            raise ZeroDivisionError
        return values

    loader = TensorLoader(numbers(8), batch_size=2, batch_transform=fail_at_four)
    with pytest.raises(ZeroDivisionError):
        list(loader)
    again = TensorLoader(numbers(8), batch_size=2)
    again.load_state_dict(loader.state_dict())

    assert rest(again) == [[4, 5], [6, 7]]


# Epochs


def test_each_epoch_is_another_order_of_all_samples():
    loader = TensorLoader(numbers(100), batch_size=7, shuffle=True)

    epochs = [flat(loader) for _ in range(3)]

    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)


def test_the_order_is_that_of_a_dataloader_with_torchs_distributed_sampler():
    sampler = DistributedSampler(numbers(50), num_replicas=1, rank=0, seed=4)
    loader = TensorLoader(numbers(50), batch_size=7, shuffle=True, seed=4)
    for epoch in range(3):
        sampler.set_epoch(epoch)

        assert rest(loader) == rest(DataLoader(range(50), batch_size=7, sampler=sampler))


def test_an_epoch_that_is_set_comes_next_and_then_the_one_behind_it():
    loader = TensorLoader(numbers(20), batch_size=20, shuffle=True)
    epochs = [flat(loader) for _ in range(3)]
    loader.set_epoch(1)

    assert [flat(loader) for _ in range(2)] == epochs[1:]


def test_an_epoch_may_be_set_on_the_sampler_too():
    loader = TensorLoader(numbers(20), batch_size=20, shuffle=True)
    epochs = [flat(loader) for _ in range(2)]
    loader.sampler.set_epoch(1)

    assert flat(loader) == epochs[1]


def test_seeds_decide_the_order():
    orders = [flat(TensorLoader(numbers(50), shuffle=True, seed=seed)) for seed in (1, 1, 2)]

    assert orders[0] == orders[1] != orders[2]


def test_two_iterations_at_once_do_not_disturb_each_other():
    loader = TensorLoader(numbers(20), batch_size=5, shuffle=True)
    epochs = [flat(loader) for _ in range(2)]
    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))

    assert [[int(number) for batch in side for number in batch] for side in zip(*pairs, strict=True)] == epochs


def test_several_loaders_share_one_dataset():
    dataset = numbers(10)
    loaders = TensorLoader(dataset, 5, True, seed=1), TensorLoader(dataset, 5, True, seed=1), TensorLoader(dataset, 5)

    assert rest(loaders[0]) == rest(loaders[1])
    assert rest(loaders[2]) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


# Samplers


@pytest.mark.parametrize(
    "sampler",
    [
        SequentialSampler(range(10)), RandomSampler(range(10)), SubsetRandomSampler([1, 5, 7]), [3, 1, -1], range(2, 9),
        WeightedRandomSampler([1.0] * 10, 25), np.array([4, 4]), torch.tensor([1, 2, 3]),
    ],
    ids=lambda sampler: type(sampler).__name__,
)  # fmt: skip
def test_a_sampler_gives_the_batches_that_it_gives_a_dataloader(sampler):
    torch.manual_seed(0)
    theirs = rest(DataLoader(torch.arange(10), batch_size=3, sampler=sampler))
    torch.manual_seed(0)
    torch.empty((), dtype=torch.int64).random_()  # a DataLoader draws a seed for workers first
    loader = TensorLoader(numbers(10), batch_size=3, sampler=sampler)

    assert rest(loader) == theirs
    assert len(loader) == len(theirs)
    assert loader.sampler is sampler


def test_the_lines_that_train_on_several_ranks_today_work():
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(numbers(20), num_replicas=2, rank=rank)
        loader = TensorLoader(numbers(20), batch_size=4, sampler=sampler)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            seen.append((epoch, flat(loader)))

    assert [sorted(seen[epoch][1] + seen[epoch + 3][1]) for epoch in range(3)] == [list(range(20))] * 3
    assert seen[0][1] != seen[1][1]


def test_an_epoch_is_handed_on_to_a_sampler_that_has_epochs():
    sampler = DistributedSampler(numbers(20), num_replicas=2, rank=0)
    TensorLoader(numbers(20), batch_size=4, sampler=sampler).set_epoch(5)

    assert sampler.epoch == 5


def test_a_sampler_without_epochs_cannot_be_set_to_one():
    with pytest.raises(ConfigError, match="set the epoch to 5, found RandomSampler without epochs"):
        TensorLoader(numbers(20), sampler=RandomSampler(range(20))).set_epoch(5)


class Endless:
    def __iter__(self):
        return itertools.cycle(range(3))


def test_a_sampler_may_be_endless():
    loader = TensorLoader(numbers(3), batch_size=2, sampler=Endless())

    assert [batch.tolist() for batch in itertools.islice(loader, 3)] == [[0, 1], [2, 0], [1, 2]]
    with pytest.raises(TypeError, match="len"):
        len(loader)


def test_a_sampler_of_batches_is_a_type_error():
    with pytest.raises(TypeError):
        list(TensorLoader(numbers(3), sampler=BatchSampler(range(3), 2, drop_last=False)))


# Ranks


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_get_each_sample_once_in_as_many_batches_each(world_size, drop_last):
    ranks = [
        rest(TensorLoader(numbers(24), 2, True, rank=rank, world_size=world_size, drop_last=drop_last))
        for rank in range(world_size)
    ]

    assert sorted(joined(joined(ranks))) == list(range(24))
    assert len({len(batches) for batches in ranks}) == 1


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_gets_what_torchs_distributed_sampler_gives_it(rank):
    sampler = DistributedSampler(range(24), num_replicas=3, rank=rank, seed=5)

    assert rest(TensorLoader(numbers(24), 2, True, seed=5, rank=rank, world_size=3)) == rest(
        DataLoader(range(24), batch_size=2, sampler=sampler)
    )


def test_where_samples_do_not_divide_among_ranks_the_last_come_twice():
    ranks = [rest(TensorLoader(numbers(10), 2, rank=rank, world_size=4)) for rank in range(4)]

    assert ranks == [[[0, 4], [8]], [[1, 5], [9]], [[2, 6], [8]], [[3, 7], [9]]]


def test_where_samples_do_not_divide_among_ranks_they_are_left_out_with_drop_last():
    ranks = [rest(TensorLoader(numbers(10), 2, rank=rank, world_size=4, drop_last=True)) for rank in range(4)]

    assert ranks == [[[0, 4]], [[1, 5]], [[2, 6]], [[3, 7]]]


# State


def undisturbed(epochs=3, **options):
    loader = TensorLoader(numbers(23), batch_size=5, **options)
    return [rest(loader) for _ in range(epochs)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batches", range(1, 17))
def test_a_loader_goes_on_exactly_behind_any_batch(batches, shuffle):
    """Of epochs of 5 batches: the rest of the epoch that the last batch is of, and the whole next one."""
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=shuffle)
    stream = itertools.chain.from_iterable(iter(lambda: loader, None))
    for _ in range(batches):
        next(stream)
    again = TensorLoader(numbers(23), batch_size=5, shuffle=shuffle)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))

    assert again.state_dict() == loader.state_dict()
    assert rest(again) + rest(again) == joined(undisturbed(6, shuffle=shuffle))[batches : (batches - 1) // 5 * 5 + 10]


def test_a_state_from_behind_the_last_batch_goes_on_with_none_and_one_from_behind_the_end_with_the_next_epoch():
    """As a StatefulDataLoader does."""
    loader = TensorLoader(numbers(10), batch_size=5, shuffle=True)
    batches = iter(loader)
    states = [(next(batches), loader.state_dict())[1] for _ in range(2)]
    list(batches)
    states.append(loader.state_dict())
    epochs = [flat(loader) for _ in range(2)]
    resumed = [TensorLoader(numbers(10), batch_size=5, shuffle=True) for _ in range(3)]
    for again, state in zip(resumed, states, strict=True):
        again.load_state_dict(state)

    assert [flat(again) for again in resumed[1:]] == [[], epochs[0]]
    assert [flat(again) for again in resumed[1:]] == epochs
    assert len(flat(resumed[0])) == 5


def test_a_loader_resumes_twice():
    expected = undisturbed(shuffle=True)[0]
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    got = []
    for _ in range(2):
        got.append(next(iter(loader)).tolist())
        state = loader.state_dict()
        loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
        loader.load_state_dict(state)

    assert got + rest(loader) == expected


def test_a_loaded_state_holds_for_one_iteration():
    loader = TensorLoader(numbers(4), batch_size=2, sampler=[3, 2, 1, 0])
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())

    assert [rest(loader), rest(loader)] == [[[1, 0]], [[3, 2], [1, 0]]]


def test_a_loader_that_is_in_use_goes_to_the_state_too():
    loader = TensorLoader(numbers(4), batch_size=2)
    next(iter(loader))
    state = loader.state_dict()
    list(loader)
    next(iter(loader))
    loader.load_state_dict(state)

    assert loader.state_dict() == state
    assert rest(loader) == [[2, 3]]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_size_may_change_at_a_state(batch_size):
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    batches = iter(loader)
    got = next(batches).tolist() + next(batches).tolist()
    again = TensorLoader(numbers(23), batch_size=batch_size, shuffle=True)
    again.load_state_dict(loader.state_dict())

    assert got + flat(again) == joined(undisturbed(shuffle=True)[0])


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_the_number_of_ranks_may_change_at_a_state(before, after):
    ranks = [TensorLoader(numbers(48), 4, True, rank=rank, world_size=before) for rank in range(before)]
    got = [number for loader in ranks for batch in itertools.islice(loader, 2) for number in batch.tolist()]
    for rank in range(after):
        loader = TensorLoader(numbers(48), 4, True, rank=rank, world_size=after)
        loader.load_state_dict(ranks[0].state_dict())
        got += flat(loader)

    assert sorted(got) == list(range(48))


def test_the_state_is_the_same_on_every_rank():
    ranks = [TensorLoader(numbers(50), 4, True, rank=rank, world_size=3) for rank in range(3)]
    for loader in ranks:
        next(iter(loader))

    assert ranks[0].state_dict() == ranks[1].state_dict() == ranks[2].state_dict()


def test_a_state_of_the_padded_end_of_ranks_is_the_end():
    loader = TensorLoader(numbers(10), 2, rank=0, world_size=4)
    batches = iter(loader)
    next(batches)
    next(batches)
    again = TensorLoader(numbers(10), 2, rank=3, world_size=4)
    again.load_state_dict(loader.state_dict())

    assert rest(again) == []
    assert rest(again) == [[3, 7], [9]]


def test_a_state_taken_after_breaking_off_is_behind_the_last_batch():
    loader = TensorLoader(numbers(23), batch_size=5)
    for batch in loader:
        if 7 in batch:
            break
    again = TensorLoader(numbers(23), batch_size=5)
    again.load_state_dict(loader.state_dict())

    assert rest(again) == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21, 22]]


def test_a_loader_that_was_broken_off_begins_the_next_epoch():
    expected = undisturbed(shuffle=True)
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    next(iter(loader))

    assert rest(loader) == expected[1]


def test_a_state_taken_before_the_first_batch_is_the_beginning():
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    loader.set_epoch(2)
    states = [loader.state_dict()]
    batches = iter(loader)
    states.append(loader.state_dict())
    again = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    again.load_state_dict(states[1])

    assert states[0] == states[1]
    assert rest(again) == rest(batches) == undisturbed(shuffle=True)[2]


def test_the_epoch_of_a_state_may_be_set_again_and_another_begins_anew():
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    loader.set_epoch(1)
    next(iter(loader))
    state, expected = loader.state_dict(), undisturbed(shuffle=True)
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert loader.state_dict() == state
    assert rest(loader) == expected[1][1:]

    loader.load_state_dict(state)
    loader.set_epoch(2)
    assert loader.state_dict()["delivered"] == 0
    assert rest(loader) == expected[2]


def test_setting_an_epoch_leaves_a_broken_off_one():
    loader = TensorLoader(numbers(23), batch_size=5)
    next(iter(loader))
    loader.set_epoch(7)

    assert (loader.state_dict()["epoch"], loader.state_dict()["delivered"]) == (7, 0)


def test_a_state_of_another_order_is_refused():
    state = TensorLoader(numbers(23), batch_size=5, shuffle=True).state_dict()

    for other in (TensorLoader(numbers(24), 5, True), TensorLoader(numbers(23), 5, True, seed=1)):
        with pytest.raises(ConfigError, match="the state was taken with"):
            other.load_state_dict(state)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_distributed_sampler_resumes(rank):
    def make():
        sampler = DistributedSampler(numbers(23), num_replicas=2, rank=rank)
        return TensorLoader(numbers(23), batch_size=5, sampler=sampler)

    loader = make()
    loader.set_epoch(3)
    expected = rest(loader)
    next(iter(loader))
    again = make()
    again.load_state_dict(loader.state_dict())

    assert again.sampler.epoch == 3
    assert rest(again) == expected[1:]


def test_a_sampler_that_does_not_repeat_its_order_is_refused_where_it_should_go_on():
    torch.manual_seed(0)
    loader = TensorLoader(numbers(23), batch_size=5, sampler=RandomSampler(range(23)))
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())

    with pytest.raises(ConfigError, match="RandomSampler gives others"):
        next(iter(loader))


def test_a_random_sampler_resumes_where_its_generator_does():
    generator = torch.Generator().manual_seed(0)
    loader = TensorLoader(numbers(23), batch_size=5, sampler=RandomSampler(range(23), generator=generator))
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    generator.manual_seed(0)
    loader.load_state_dict(state)

    assert rest(loader) == rest(batches)


# Interruptions, memory, processes


INTERRUPTED = """
import signal, torch
from types import SimpleNamespace
from kafkapipes import TensorLoader

def interrupt(*_):
    raise KeyboardInterrupt

Samples = type("Samples", (SimpleNamespace,), {"__len__": lambda self: 1_000_000})
numbers = Samples(values=torch.arange(1_000_000), labels=None, transform=None, label_transform=None)
loader = TensorLoader(numbers, batch_size=10)
signal.signal(signal.SIGVTALRM, interrupt)
for attempt in range(200):
    loader.set_epoch(0)
    batch = torch.tensor([-1])
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001 + attempt * 1e-5)
        for batch in loader:
            pass
    except KeyboardInterrupt:
        print(loader.state_dict()["delivered"] - int(batch[-1]) - 1)
"""


def test_ctrl_c_leaves_a_state_behind_the_batch_in_hand():
    """At any moment: the state counts the batch that the loop has, and none that it has not.

    In a process of its own, since a signal inside coverage's tracer leaves that locked.
    """
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=170)
    mistakes = done.stdout.split()

    assert done.returncode == 0, done.stderr
    assert len(mistakes) > 100
    assert set(mistakes) == {"0"}


def test_an_epoch_takes_no_copy_of_the_data():
    dataset = Samples(torch.zeros(2000, 10_000, dtype=torch.uint8))
    loader = TensorLoader(dataset, batch_size=20, shuffle=True)
    tracemalloc.start()
    try:
        for _ in loader:
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 200_000 < peak < 1_000_000  # NumPy reports its arrays: this batch and the next of 200 kB each, of 20 MB


def first_and_rest(loader):
    return next(iter(loader)).tolist(), rest(loader)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_another_process_gives_the_same_batches(start_method):
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    with multiprocessing.get_context(start_method).Pool(1) as pool:
        theirs = pool.apply(first_and_rest, (loader,))

    assert theirs == first_and_rest(loader)


def test_a_loader_is_pickled_with_its_place():
    loader = TensorLoader(numbers(23), batch_size=5, shuffle=True)
    loader.load_state_dict({**loader.state_dict(), "epoch": 2})

    again = pickle.loads(pickle.dumps(loader))

    assert again.state_dict() == loader.state_dict()
    assert rest(again) == undisturbed(shuffle=True)[2]


# Devices: "meta" stands in for an accelerator; its tensors have shapes and types, and no content


def test_on_a_device_batches_are_gathered_there():
    loader = TensorLoader(images(10), batch_size=4, shuffle=True, device="meta")

    batches = list(loader)

    assert [(values.device.type, values.shape, values.dtype) for values, _ in batches] == [
        ("meta", (4, 2, 3), torch.uint8), ("meta", (4, 2, 3), torch.uint8), ("meta", (2, 2, 3), torch.uint8),
    ]  # fmt: skip
    assert [(labels.device.type, labels.shape) for _, labels in batches] == [
        ("meta", (4,)), ("meta", (4,)), ("meta", (2,)),
    ]  # fmt: skip


def test_on_a_device_ranks_and_a_batch_transform_work_too():
    options = {"batch_transform": lambda values, labels: values.float(), "rank": 1, "world_size": 3}

    assert [tuple(batch.shape) for batch in TensorLoader(images(10), 2, device="meta", **options)] == [
        (2, 2, 3), (2, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_the_hosts_own_memory_is_a_device_too(device):
    loader = TensorLoader(images(4, transform=scaled), batch_size=2, device=device)

    assert loader.device == torch.device("cpu")
    assert next(iter(loader))[0].shape == (2, 1, 2, 3)


def test_the_indices_of_a_batch_are_where_the_columns_are():
    """What `device=` does for each batch, on the one device with content that is here."""
    loader = TensorLoader(images(10), batch_size=4, device="meta")
    loader._moved, loader.device = [images(10).values, images(10).labels], torch.device("cpu")

    assert [labels.tolist() for _, labels in loader] == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]


@pytest.mark.parametrize(
    ("dataset", "options", "text"),
    [
        (images(3, transform=scaled), {}, "set them to None and use batch_transform"),
        (images(3, label_transform=int), {}, "set them to None and use batch_transform"),
        (Samples(BytesTensor(TextColumn.from_list([b"a"]))), {}, "strings and bytes cannot be kept"),
        (images(3), {"pin_memory": True}, "pin_memory is for batches in the memory of the host"),
    ],
)
def test_what_does_not_go_with_a_device_is_refused(dataset, options, text):
    with pytest.raises(ConfigError, match=f"device is 'meta'.*{text}|{text}"):
        TensorLoader(dataset, device="meta", **options)


def test_without_an_accelerator_memory_is_not_pinned_and_that_is_said():
    if torch.accelerator.is_available():
        pytest.skip("has an accelerator")
    with pytest.warns(UserWarning, match="pin_memory is True, but there is no accelerator that needs it"):
        loader = TensorLoader(numbers(3), batch_size=3, pin_memory=True)

    assert rest(loader) == [[0, 1, 2]]


class Pinnable:
    def pin_memory(self):
        return "pinned"


class Pair(NamedTuple):
    left: Any
    right: Any


def test_all_tensors_of_a_batch_are_pinned_however_a_batch_transform_packs_them():
    one = Pinnable()

    assert _pinned(one) == "pinned"
    assert _pinned((one, [one, "text"], {"a": one, "b": 3})) == ("pinned", ["pinned", "text"], {"a": "pinned", "b": 3})
    assert _pinned(Pair(one, b"bytes")) == Pair("pinned", b"bytes")


# Options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": None}, "batch_size is None"),
        ({"batch_size": 2.0}, "batch_size is 2.0"),
        ({"seed": -1}, "seed is -1"),
        ({"world_size": 0}, "world_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2, wanted a whole number from 0 to 1"),
        ({"rank": 1}, "rank is 1"),
        ({"sampler": [1], "shuffle": True}, "a sampler decides order and share itself"),
        ({"sampler": [1], "seed": 1}, "a sampler decides order and share itself"),
        ({"sampler": [1], "world_size": 2}, "a sampler decides order and share itself"),
        ({"sampler": iter([1])}, "wanted what gives indices anew"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        TensorLoader(numbers(3), **options)


def test_a_loader_prints_itself_in_one_line():
    assert repr(TensorLoader(numbers(9), 4, True)) == (
        "TensorLoader(batches of 4, EpochSampler(9 samples, shuffled with seed 0))"
    )
    assert repr(TensorLoader(numbers(9), 4, rank=1, world_size=2)) == (
        "TensorLoader(batches of 4, EpochSampler(9 samples, in order), rank 1 of 2)"
    )


def test_rows_are_taken_as_copies():
    column = torch.arange(6).reshape(3, 2)
    rows = take(column, np.array([2, 2]))
    rows[0] = 9

    assert rows.tolist() == [[9, 9], [4, 5]]
    assert column[2].tolist() == [4, 5]
