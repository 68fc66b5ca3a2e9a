import multiprocessing
import pickle

import pytest

from kafkapipes.shared import SharedNumber


def double(number, done):
    number.value *= 2
    done.set()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_what_another_process_sets_is_seen(method):
    context = multiprocessing.get_context(method)
    number, done = SharedNumber(21), context.Event()
    process = context.Process(target=double, args=(number, done))
    process.start()
    process.join()

    assert done.is_set()
    assert number.value == 42


def test_a_copy_has_the_value_and_then_its_own():
    number = SharedNumber(5)
    copied = pickle.loads(pickle.dumps(number))
    number.value = 6

    assert (number.value, copied.value) == (6, 5)


def test_it_holds_any_64_bit_number():
    number = SharedNumber(2**63 - 1)

    assert number.value == 2**63 - 1
