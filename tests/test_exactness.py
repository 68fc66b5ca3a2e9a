"""The check itself: it finds every way in which a dataset may fail to resume."""

import pytest
import torch
from torch.utils.data import IterableDataset

from kafkapipes.testing import assert_resumes_exactly


class Numbers(IterableDataset):
    """Numbers, with an iterator whose state may be wrong in some way."""

    def __init__(self, wrong="", items=6):
        self.wrong, self.items = wrong, items

    def __iter__(self):
        return NumbersIterator(self)


class NumbersIterator:
    def __init__(self, dataset):
        self.dataset, self.next = dataset, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next >= self.dataset.items:
            raise StopIteration
        self.next += 1
        return torch.tensor([self.next], dtype=torch.int32)

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]
        wrong = self.dataset.wrong
        if wrong == "loses" and self.next == 3:
            self.next += 1
        if wrong == "doubles" and self.next == 4:
            self.next -= 1
        if wrong == "begins anew":
            self.next = 0
        if wrong == "shortens the next epoch":
            self.dataset.items = 5


@pytest.mark.parametrize(("workers", "tried"), [(None, 12), (0, 12)])
def test_a_dataset_that_resumes_exactly_passes_with_the_number_of_states(workers, tried):
    assert assert_resumes_exactly(Numbers(), num_workers=workers) == tried
    assert assert_resumes_exactly(Numbers(), num_workers=workers, stops=[2, 6]) == 3


@pytest.mark.parametrize("workers", [None, 0])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("loses", r"resumed behind item 2 and again behind the next: wanted item 3 to be tensor\(\[4\]"),
        ("doubles", r"resumed behind item 3 and again behind the next: wanted item 4 to be tensor\(\[5\]"),
        ("begins anew", "resumed behind item 0 and again behind the next: wanted item 1"),
        ("shortens the next epoch", "resumed behind item 0: wanted 6 items, found 5"),
    ],
)
def test_what_does_not_resume_exactly_is_told_with_the_place(wrong, said, workers):
    with pytest.raises(AssertionError, match=said):
        assert_resumes_exactly(Numbers(wrong), num_workers=workers)


class OtherTypes(Numbers):
    """Gives doubles instead of integers after a restore."""

    def __iter__(self):
        iterator = super().__iter__()
        iterator.load_state_dict = lambda state: (
            setattr(self, "wrong", "double") or setattr(iterator, "next", state["next"])
        )
        return iterator


def test_items_of_another_type_are_others():
    class Doubles(NumbersIterator):
        def __next__(self):
            return super().__next__().double()

    class Changing(Numbers):
        def __iter__(self):
            self.wrong, passes = self.wrong + "x", len(self.wrong)
            return (Doubles if passes > 2 else NumbersIterator)(self)

    with pytest.raises(AssertionError, match=r"found tensor\(\[1\.\], dtype=torch\.float64\)"):
        assert_resumes_exactly(Changing())
