"""A module imports only from rooms above it; a few rooms alone may know Kafka or torch."""

import ast
from pathlib import Path

import pytest

import kafkapipes

PACKAGE = Path(kafkapipes.__file__).parent
LADDER = [
    "errors", "options", "memory", "ranges", "blocks", "report", "progress", "records", "dead_letters", "arrays",
    "formats.raw", "formats", "decoding", "checkpoints", "following", "ahead", "abreast", "control",
    "kafka.addresses", "kafka.secrets", "kafka.config", "kafka.failures", "kafka.release", "kafka.offsets",
    "kafka.watch", "kafka.client", "kafka.native", "kafka.protocol", "kafka.direct", "kafka.fetcher",
    "kafka.follower", "kafka.group", "kafka.sink", "kafka.dead_letter_topic", "windows", "pipes.parser",
    "pipes.reader", "pipes.decoder", "pipes.reshaper", "pipes.transformer", "order", "loader", "dataset", "making",
    "bounded", "live", "stream", "shared", "streaming", "chain", "nodes", "exactness", "testing",
]  # fmt: skip
# Room → what only it imports, written in C.
EXTENSIONS = {"kafka.native": "kafkapipes.kafka._native", "kafka.direct": "kafkapipes.kafka._batches"}
PACKAGES = {"", "kafka", "pipes"}  # their __init__ is a door or a sentence
MAY_IMPORT_KAFKA = ("kafka.", "testing")
MAY_IMPORT_TORCH = (
    "pipes.",
    "order",
    "loader",
    "dataset",
    "making",
    "shared",
    "streaming",
    "chain",
    "nodes",
    "exactness",
)


def modules():
    return {
        path.relative_to(PACKAGE)
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix("__init__")
        .rstrip("."): path
        for path in PACKAGE.rglob("*.py")
    }


def imports(path):
    """The full names of all modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            found.add(node.module)
    return found


def test_every_module_has_its_place_on_the_ladder():
    assert set(modules()) - PACKAGES == set(LADDER)


@pytest.mark.parametrize("room", LADDER)
def test_a_room_imports_only_from_rooms_above_it(room):
    above = {f"kafkapipes.{name}" for name in LADDER[: LADDER.index(room)]} | {EXTENSIONS.get(room)}

    assert {name for name in imports(modules()[room]) if name.startswith("kafkapipes")} <= above


@pytest.mark.parametrize("room", [room for room in LADDER if room.startswith("pipes.")])
def test_no_pipe_imports_another(room):
    assert not {name for name in imports(modules()[room]) if name.startswith("kafkapipes.pipes")}


@pytest.mark.parametrize(("package", "allowed"), [("confluent_kafka", MAY_IMPORT_KAFKA), ("torch", MAY_IMPORT_TORCH)])
def test_only_a_few_rooms_know_kafka_or_torch(package, allowed):
    knowing = {room for room, path in modules().items() if any(name.split(".")[0] == package for name in imports(path))}

    assert all(room.startswith(allowed) for room in knowing)
    assert knowing


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_a_module_neither_unpickles_nor_runs_what_it_reads(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}

    assert not imports(path) & {"pickle", "marshal", "shelve", "subprocess", "yaml"}
    assert not calls & {"eval", "exec", "compile", "__import__", "np.load", "torch.load", "os.system", "os.popen"}


def test_the_door_names_what_it_lets_through_and_nothing_else():
    public = {
        name for name, item in vars(kafkapipes).items() if not name.startswith("_") and not hasattr(item, "__path__")
    }
    public -= {name.split(".")[0] for name in LADDER}

    assert sorted(kafkapipes.__all__) == sorted(public)
