"""Where the processor's time goes, by perf's samples of the reading alone: nanoseconds a record, thread by thread.

perf samples the processor's clock, so the figures are of work and not of waiting. It needs Linux, perf (the package
linux-perf) and the right to sample the kernel: root, or kernel.perf_event_paranoid at 1 or less.
"""

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench.measure import Failed, Run, Session
from tests.bench.read import PERF_VARIABLE
from tests.bench.topics import Topic

SAMPLES_A_SECOND = 4999
RECEIVE, PARSE = "client's threads: receive (kernel)", "client's threads: parse, checksum, unpack"
KERNEL, COPY = "reading thread: kernel (page faults; receiving)", "reading thread: copy bytes"
TAKE, LIBC = "reading thread: take from the client", "reading thread: memory and locks (libc)"
EXTENSION, PYTHON = "reading thread: C code (extension, C loop)", "reading thread: Python"
PLACES = (RECEIVE, PARSE, KERNEL, COPY, TAKE, LIBC, EXTENSION, PYTHON)


def profiles(session: Session, topic: Topic, ways: Iterable[str]) -> dict[str, Run]:
    """Way → a run whose figures are the nanoseconds a record of each place."""
    return {way: lambda way=way: _profile(session, way, topic) for way in ways}


def place(thread: str, library: str, symbol: str) -> str:
    """The place that a sample is counted at."""
    in_kernel = library.startswith("[") or library.endswith(".ko")
    if thread.startswith("rdk:"):
        return RECEIVE if in_kernel else PARSE
    if in_kernel:
        return KERNEL
    if "memmove" in symbol or "memcpy" in symbol:
        return COPY
    if "rdkafka" in library:
        return TAKE
    if "libc.so" in library or "libc-" in library:
        return LIBC
    return EXTENSION if "kafkapipes" in library or "loop.so" in library else PYTHON


def _profile(session: Session, way: str, topic: Topic) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pipes = [str(Path(folder) / name) for name in ("control", "answer")]
        for pipe in pipes:
            os.mkfifo(pipe)
        samples = Path(folder) / "samples"
        prefix = [
            "perf", "record", "-q", "-N", "-B", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-o", str(samples),
            "--delay=-1", f"--control=fifo:{','.join(pipes)}", "--",
        ]  # fmt: skip
        arguments = ["tests.bench.read", *session.arguments(way, topic, 0, {})]
        figures = session.fresh(arguments, prefix=prefix, **{PERF_VARIABLE: ",".join(pipes)})
        found = _counts(samples)
    figures["nanoseconds"] = {name: count / SAMPLES_A_SECOND / topic.records * 1e9 for name, count in found.items()}
    return figures


def _counts(samples: Path) -> Counter[str]:
    command = ["perf", "script", "-i", str(samples), "-F", "comm,ip,sym,dso"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"perf script: {done.stderr.strip()[:200]}")
    return Counter(place(*_fields(line)) for line in done.stdout.splitlines() if line.strip())


def _fields(line: str) -> tuple[str, str, str]:
    """Thread, library and symbol of a line `rdk:broker1  7f12 memmove (/lib/libc.so)`."""
    head, _, library = line.rstrip().rpartition(" (")
    thread, _, *symbol = head.split()
    return thread, library.rstrip(")"), " ".join(symbol)
