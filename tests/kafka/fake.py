"""Clients that say what a test tells them: one of each kind, so that whatever is asked of the seam is asked of both."""

import ctypes
import shutil
import subprocess
from ctypes import c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path

import pytest

from kafkapipes.kafka import native
from kafkapipes.kafka.client import PythonClient
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import Complaints
from kafkapipes.kafka.native import NativeClient

SOURCE = Path(__file__).with_name("fake_rdkafka.c")
CONFIG = ClientConfig("127.0.0.1:1", "g")


class FakeLibrary:
    """fake_rdkafka.c, compiled; what it is told it says to the next client that consumes."""

    def __init__(self, folder: Path) -> None:
        if not native._built:
            pytest.skip("kafkapipes was installed without its extension")
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("there is no C compiler")
        self.path = folder / "fake_rdkafka.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", self.path, SOURCE], check=True)
        self._library = ctypes.CDLL(str(self.path))
        self._library.fake_push.argtypes = [
            c_int, c_char_p, c_int32, c_int64, c_int32, c_void_p, c_size_t, c_void_p, c_size_t, c_char_p,
        ]  # fmt: skip
        self._kept: list[bytes] = []

    def forget(self) -> None:
        """Begin anew: nothing to say, nothing given out."""
        self._library.fake_forget()
        self._kept.clear()

    def say(self, *fetches, after_seek=()) -> None:
        """What is consumed: a list of `confluent_kafka.Message`s for each call."""
        for messages in fetches:
            self._say(messages)
        if after_seek:
            self._library.fake_after_seek()
        for messages in after_seek:
            self._say(messages)

    def push(self, code=0, topic="t", partition=0, offset=0, epoch=-1, value=(None, 0), key=(None, 0), text="") -> None:
        """One message; value and key as (bytes, length), where the length may be a lie."""
        self._kept += [item for item, _ in (value, key) if item is not None]
        self._library.fake_push(code, topic.encode(), partition, offset, epoch, *value, *key, text.encode())

    def set(self, name: str, number: int) -> None:
        c_int.in_dll(self._library, f"fake_{name}").value = number

    def count(self, name: str, kind=c_int) -> int:
        return kind.in_dll(self._library, f"fake_{name}").value

    def _say(self, messages) -> None:
        for message in messages:
            error, value, key = message.error(), message.value(), message.key()
            epoch, offset = message.leader_epoch(), message.offset()
            self.push(
                0 if error is None else error.code(), message.topic(), message.partition(),
                -1001 if offset is None else offset, -1 if epoch is None else epoch,
                (value, len(value or b"")), (key, len(key or b"")), "" if error is None else error.str(),
            )  # fmt: skip
        self._library.fake_end_fetch()

    def client(self, monkeypatch, **options) -> NativeClient:
        """A native client of this library."""
        monkeypatch.setattr(native, "library_path", lambda: self.path)
        return NativeClient({}, Complaints(CONFIG), **{"timestamps": False, "headers": False, **options})


class ScriptedConsumer:
    """A `confluent_kafka.Consumer` that gives one list of messages after the other, and then nothing."""

    def __init__(self, *fetches, after_seek=()) -> None:
        self.fetches, self.after_seek = list(fetches), list(after_seek)

    def assign(self, partitions):
        (place,) = partitions
        self.assigned = place.offset

    def seek(self, place):
        self.sought = (place.topic, place.partition, place.offset, place.leader_epoch)
        self.fetches = self.after_seek

    def consume(self, count, timeout):
        return self.fetches.pop(0) if self.fetches else []

    def unassign(self):
        pass

    def close(self):
        pass


def python_client(consumer, **options) -> PythonClient:
    return PythonClient(consumer, **{"timestamps": False, "headers": False, **options})
