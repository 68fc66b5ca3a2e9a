import pickle

import pytest

from kafkapipes import errors
from kafkapipes.errors import KafkaPipesError

CLASSES = [item for item in vars(errors).values() if isinstance(item, type)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_built_from_its_text_alone_and_pickled_with_it(kind):
    again = pickle.loads(pickle.dumps(kind("t:0@5: wanted this")))

    assert type(again) is kind
    assert str(again) == "t:0@5: wanted this"
    assert isinstance(again, KafkaPipesError)


def test_bad_input_is_also_a_value_error_a_stall_a_timeout_and_a_limit_a_memory_error():
    also = {kind.__name__: kind.__mro__ for kind in CLASSES}

    assert {name for name, bases in also.items() if ValueError in bases} == {
        "RangeError", "ControlMessageError", "ConfigError", "StateError", "DecodeError",
    }  # fmt: skip
    assert {name for name, bases in also.items() if TimeoutError in bases} == {"StalledError"}
    assert {name for name, bases in also.items() if MemoryError in bases} == {"MemoryLimitError"}


def test_the_tree_at_the_top_of_the_file_names_every_class():
    assert all(kind.__name__ in errors.__doc__ for kind in CLASSES)
