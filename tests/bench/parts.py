"""What is measured: the works of each part of the suite, in the order of the page.

A part is a function from the session to its works. One that lives in a file of its own has a function `works` there
that does the same, and its name in `PLUGGED`; where the file is missing, so is the part. A work with `wanted` has its
rows in the page's first table.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from tests.bench.measure import OURS, Run, Session, Work
from tests.bench.profile import profiles
from tests.bench.topics import Topic

HAND, TRICKS, C_LOOP, LIMIT = "by hand", "by hand, every trick", "C loop", "bare Fetch"
SMALL, IMAGE = Topic(1_000_000, 100), Topic(400_000, 784)
_QUICK_SMALL, _QUICK_IMAGE = Topic(400_000, 100), Topic(150_000, 784)


def mains(session: Session) -> tuple[Topic, Topic]:
    """The two topics that most is measured on."""
    return (_QUICK_SMALL, _QUICK_IMAGE) if session.quick else (SMALL, IMAGE)


def read(session: Session) -> Iterator[Work]:
    """The constructor against the loops, and the limit."""
    for topic, least in zip(mains(session), (2.5, 1.6), strict=True):
        wanted = {HAND: least, TRICKS: least, C_LOOP: 0.9}
        yield Work("read", words(topic), _ways(session, topic, LIMIT, *wanted), wanted, _facts(topic))


def peers(session: Session) -> Iterator[Work]:
    """The constructor against other systems; those that are slow read fewer records, and rates are compared."""
    wanted = {"kafka-python loop": 100.0, "ray": 20.0, "daft": 8.0}
    records = {"kafka-python loop": 20_000, "ray": 100_000, "daft": 100_000} if session.quick else {
        "kafka-python loop": 40_000, "ray": 300_000, "daft": 300_000
    }  # fmt: skip
    for topic in mains(session):
        theirs = {way: session.read_by_peer(way, topic, count) for way, count in records.items()}
        yield Work("peers", words(topic), {**_ways(session, topic), **theirs}, wanted, _facts(topic), rounds=3)


def shapes(session: Session) -> Iterator[Work]:
    """Compressed, of many partitions, and large: never slower than by hand."""
    few = 2 if session.quick else 1
    for topic in (
        Topic(300_000 // few, 784, codec="lz4"), Topic(300_000 // few, 784, codec="zstd"),
        Topic(960_000 // few, 100, partitions=12), Topic(80_000 // few, 4096), Topic(4000 // few, 100_000),
    ):  # fmt: skip
        wanted = {HAND: 1.0, TRICKS: 1.0}
        yield Work("shapes", words(topic), _ways(session, topic, *wanted), wanted, _facts(topic), rounds=5)


def sizes(session: Session) -> Iterator[Work]:
    """How the cost grows with the size of a record."""
    megabytes = 60 if session.quick else 200
    for size in (16, 1_000_000) if session.quick else (16, 100, 1000, 10_000, 100_000, 1_000_000):
        topic = Topic(min(1_000_000, megabytes * 1_000_000 // size), size)
        yield Work("sizes", words(topic), _ways(session, topic, TRICKS, C_LOOP), {}, _facts(topic), rounds=3)


def records(session: Session) -> Iterator[Work]:
    """How the cost grows with the number of records, tenfold at each step: parts of one topic."""
    topic = Topic(300_000 if session.quick else 3_000_000, 100)
    for count in (topic.records // 100, topic.records // 10, topic.records):
        facts = {**_facts(topic), "records": count}
        yield Work("records", f"{count:,} of 100 B", _ways(session, topic, TRICKS, records=count), {}, facts, rounds=3)


def partitions(session: Session) -> Iterator[Work]:
    """How the cost grows with the number of partitions, the records being the same."""
    for count in (1, 64) if session.quick else (1, 4, 16, 64):
        topic = Topic(320_000 if session.quick else 960_000, 100, count)
        yield Work("partitions", words(topic), _ways(session, topic, TRICKS), {}, _facts(topic), rounds=3)


def readers(session: Session) -> Iterator[Work]:
    """What several readers gain, each for its part of the records."""
    for topic in (Topic(960_000, 100, 4), mains(session)[1], Topic(300_000, 784, codec="zstd")):
        for count in (1, 2) if session.quick else (1, 2, 4):
            run = {OURS: session.read(OURS, topic, readers=count)}
            facts = {**_facts(topic), "topic": words(topic), "readers": count}
            yield Work("readers", f"{words(topic)}, {count} reader(s)", run, {}, facts, rounds=3)


def tuning(session: Session) -> Iterator[Work]:
    """What the options change, against the defaults."""
    settings: dict[str, dict[str, object]] = {
        "`batch_records=500`": {"batch_records": 500},
        "`batch_records=5000`": {"batch_records": 5000},
        "memory that the machine may have to borrow": {"memory_at_hand": False},
        "the `native` client": {"client": "native"},
        "the same, `fetch.max.bytes` 1 MiB, not 16": {"config": {"fetch.max.bytes": 1_048_576}},
        "the same, `fetch.max.bytes` 64 MiB, queue 128": {
            "config": {"fetch.max.bytes": 67_108_864, "queued.max.messages.kbytes": 131_072}
        },
        "the same, `check.crcs=False`": {"config": {"check.crcs": False}},
        "the `python` client": {"client": "python"},
    }
    for topic in mains(session):
        ways = {name: session.read(OURS, topic, **options) for name, options in settings.items()}
        yield Work("tuning", words(topic), {OURS: session.read(OURS, topic), **ways}, {}, _facts(topic), rounds=3)


def profile(session: Session) -> Iterator[Work]:
    """Where the processor's time goes."""
    for topic in mains(session):
        yield Work("profile", words(topic), profiles(session, topic, (OURS, TRICKS, C_LOOP)), {}, _facts(topic), 1)


def plugged(name: str, session: Session) -> Iterator[Work]:
    """A part that lives in a file of its own."""
    yield from import_module(f"tests.bench.{name}").works(session)


PLUGGED = {name: partial(plugged, name) for name in ("loader", "streaming") if find_spec(f"tests.bench.{name}")}
PARTS: dict[str, Callable[[Session], Iterator[Work]]] = {
    "read": read, "peers": peers, "shapes": shapes, **PLUGGED, "profile": profile, "sizes": sizes,
    "records": records, "partitions": partitions, "readers": readers, "tuning": tuning,
}  # fmt: skip


def words(topic: Topic) -> str:
    """A topic in a table: '784 B, lz4'."""
    size = f"{topic.size // 1000} kB" if topic.size >= 10_000 else f"{topic.size} B"
    codec = [] if topic.codec == "none" else [topic.codec]
    return ", ".join([size, *codec, *([f"{topic.partitions} partitions"] if topic.partitions > 1 else [])])


def _ways(session: Session, topic: Topic, *others: str, records: int = 0) -> dict[str, Run]:
    return {way: session.read(way, topic, records) for way in (OURS, *others)}


def _facts(topic: Topic) -> dict[str, object]:
    return {"records": topic.records, "size": topic.size, "partitions": topic.partitions, "codec": topic.codec}
