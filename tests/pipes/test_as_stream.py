"""`.as_stream()`: a chain of pipes, shuffled, shared out and resumed."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
from torch.utils.data import DataLoader, IterDataPipe

import kafkapipes.pipes.reader as reader_module
from kafkapipes import ConfigError, DecodeError, RangeParser, StreamingKafkaDataset, as_stream, format_ranges
from kafkapipes.testing import EmbeddedKafka, assert_resumes_exactly

RECORDS = 60
TEXT = "clicks:0:0:40,clicks:1:0:20"
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


@pytest.fixture(scope="module")
def clicks():
    """Samples of 6 float32 that begin with their number, in two partitions."""
    with EmbeddedKafka() as kafka:
        kafka.create_topic("clicks", partitions=2)
        for partition, numbers in enumerate((range(40), range(40, RECORDS))):
            rows = [(np.arange(number, number + 6, dtype=np.float32).tobytes(), bytes([number])) for number in numbers]
            kafka.fill("clicks", rows, partition)
        yield kafka


def negative(value):
    return -value


def is_second(item):
    return item.partition == 1


def reader(kafka, text=TEXT, **options):
    return RangeParser(text).read_partitions(kafka.bootstrap_servers, **options)


def chain(kafka, text=TEXT):
    shaped = reader(kafka, text).decode_bytes("float32", "uint8").reshape_arrays("2 3")
    return shaped.transform_samples(negative, label_transform=int)


def numbers(samples):
    return [int(label) for _, label in samples]


class Own(IterDataPipe):
    """A user's pipe."""

    def __init__(self, source):
        self.source = source

    def __iter__(self):
        yield from self.source


def test_the_samples_are_those_of_the_chain(clicks):
    wanted, found = list(chain(clicks)), list(chain(clicks).as_stream())

    assert [label for _, label in found] == [label for _, label in wanted] == list(range(RECORDS))
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(found, wanted, strict=True))
    assert found[0][0].shape == (2, 3)


def test_batches_have_the_shape_and_the_transforms_of_the_chain(clicks):
    values, labels = next(iter(chain(clicks).as_stream(batch_size=7)))

    assert (values.shape, values[:, 0, 0].tolist()) == ((7, 2, 3), [-number for number in range(7)])
    assert labels.tolist() == list(range(7))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_chain_comes_whole_through_workers(clicks, workers):
    found = numbers(DataLoader(chain(clicks).as_stream(shuffle=True), batch_size=None, num_workers=workers))

    assert found != list(range(RECORDS))
    assert sorted(found) == list(range(RECORDS))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_workers": 0}, {"num_workers": 2, "stops": (2, 5)}])
def test_a_chain_resumes_exactly(clicks, options, shuffle):
    assert assert_resumes_exactly(chain(clicks).as_stream(batch_size=8, shuffle=shuffle), **options) >= 4


def test_a_restart_in_a_stateful_loader_fetches_from_where_it_stopped(clicks, monkeypatch):
    from torchdata.stateful_dataloader import StatefulDataLoader

    fetched, original = [], reader_module.Fetcher.fetch

    def fetch(self, account):
        for batch in original(self, account):
            fetched.extend(batch.offsets.tolist())
            yield batch

    loader = StatefulDataLoader(chain(clicks).as_stream(batch_size=10), batch_size=None)
    batches = iter(loader)
    head = numbers_of_batches([next(batches) for _ in range(3)])
    state = loader.state_dict()
    del batches
    monkeypatch.setattr(reader_module.Fetcher, "fetch", fetch)
    again = StatefulDataLoader(chain(clicks).as_stream(batch_size=10), batch_size=None)
    again.load_state_dict(state)

    assert head + numbers_of_batches(again) == list(range(RECORDS))
    assert fetched == [*range(30, 40), *range(20)]


def numbers_of_batches(batches):
    return [number for _, labels in batches for number in labels.tolist()]


def test_ranks_share_a_chain(clicks):
    parts = [numbers(chain(clicks).as_stream(shuffle=True, rank=rank, world_size=3)) for rank in range(3)]

    assert sorted(number for part in parts for number in part) == list(range(RECORDS))
    assert [len(part) for part in parts] == [20, 20, 20]


def test_a_chain_may_end_anywhere_behind_the_decoder(clicks):
    decoded = reader(clicks).decode_bytes("float32", "uint8")
    shapes = [next(iter(pipe.as_stream()))[0].shape for pipe in (decoded, decoded.reshape_arrays("3 -1"))]
    twice = decoded.reshape_arrays("3 2").reshape_arrays("2 3").transform_samples()

    assert shapes == [(6,), (3, 2)]
    assert next(iter(twice.as_stream()))[0].shape == (2, 3)


def test_without_labels_a_sample_is_the_value(clicks):
    assert next(iter(reader(clicks).decode_bytes("float32").as_stream(batch_size=2))).shape == (2, 6)


def test_policies_and_letters_are_the_chains(embedded):
    embedded.fill("t", [(b"ab", b"0"), (b"abc", b"1"), (None, b"2"), (b"cd", b"3")])
    letters = []
    decoded = reader(embedded, "t:0:0:4").decode_bytes(
        "uint8", data_elements=2, on_error="dead-letter", tombstone="skip", dead_letter=letters.extend
    )
    stream = decoded.as_stream(prefetch_blocks=0)

    assert [value.tolist() for value in stream] == [[97, 98], [99, 100]]
    assert [letter.coordinates for letter in letters] == ["t:0@1"]
    with pytest.raises(DecodeError, match="t:0@2: wanted a value"):
        list(reader(embedded, "t:0:0:4").decode_bytes("uint8", data_elements=2).as_stream())


def test_the_readers_policies_hold(clicks):
    stopped = reader(clicks, "clicks:0:30:99", on_short="stop").decode_bytes("float32", "uint8").as_stream()

    assert numbers(stopped) == list(range(30, 40))


def test_words_that_the_reader_has_resolved_stay_resolved(embedded):
    embedded.fill("t", [(b"a", b"0")] * 5)
    decoded = reader(embedded, "t:0:earliest:latest").decode_bytes("uint8", "uint8")
    assert len(list(decoded)) == 1  # a batch
    embedded.fill("t", [(b"a", b"1")] * 5)

    assert format_ranges(decoded.as_stream().ranges) == "t:0:0:5"
    assert format_ranges(reader(embedded, "t:0:earliest:latest").decode_bytes("uint8").as_stream().ranges) == "t:0:0:10"


def test_filtered_ranges_and_a_chain_without_an_end(clicks):
    first = RangeParser(TEXT).filter(is_second).read_partitions(clicks.bootstrap_servers)
    live = reader(clicks, "clicks:1:15:").decode_bytes("float32", "uint8").as_stream(idle_timeout_s=0.2)

    assert numbers(first.decode_bytes("float32", "uint8").as_stream()) == list(range(40, 60))
    assert numbers(live) == list(range(55, 60))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda clicks: Own(reader(clicks).decode_bytes("float32")).reshape_arrays("2 3"), "found Own in it; do its"),
        (lambda clicks: Own(reader(clicks)).decode_bytes("float32"), "found Own in it; do its work in a transform"),
        (lambda clicks: Own(chain(clicks)), "found Own in it"),
        (lambda clicks: chain(clicks).shuffle(), "found ShufflerIterDataPipe in it; leave it out, .*shuffle=True"),
        (lambda clicks: chain(clicks).batch(4), "found BatcherIterDataPipe in it; leave it out, .* batch_size"),
        (lambda clicks: chain(clicks).map(negative), "found MapperIterDataPipe in it; give transform_samples"),
        (lambda clicks: chain(clicks).sharding_filter(), "shares itself out"),
        (lambda clicks: reader(clicks), "found PartitionReader in it"),
        (lambda clicks: RangeParser(TEXT), "found RangeParser in it"),
        (lambda clicks: RangeParser(TEXT).read_partitions(clicks.bootstrap_servers).decode_bytes("uint8"), None),
    ],
)
def test_a_pipe_of_another_kind_is_refused_with_what_to_do(clicks, make, named):
    pipe = make(clicks)
    if named is None:
        assert isinstance(pipe.as_stream(), StreamingKafkaDataset)
        return
    with pytest.raises(ConfigError, match=named):
        pipe.as_stream()


def test_a_source_that_is_no_pipe_is_refused():
    with pytest.raises(ConfigError, match="found 'clicks:0:0:1' in it"):
        as_stream("clicks:0:0:1")


def test_a_stream_of_a_chain_is_pickled(clicks):
    assert numbers(pickle.loads(pickle.dumps(chain(clicks).as_stream()))) == list(range(RECORDS))


def test_the_chain_goes_on_as_before(clicks):
    pipe = chain(clicks)
    stream = pipe.as_stream(shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert numbers(pipe) == sorted(numbers(stream)) == numbers(pipe) == list(range(RECORDS))


def test_the_options_and_their_defaults_are_those_of_the_dataset():
    of_dataset = inspect.signature(StreamingKafkaDataset).parameters
    of_chain = dict(list(inspect.signature(as_stream).parameters.items())[1:])

    assert of_chain == {name: of_dataset[name] for name in of_chain}
