import gc
import logging
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from kafkapipes import RangeParser
from kafkapipes.kafka.client import PythonClient
from kafkapipes.kafka.release import end_client, leave_to_parent


def test_an_end_that_comes_is_waited_for():
    ended = []

    end_client(lambda: (time.sleep(0.05), ended.append(True)))

    assert ended == [True]


def test_an_end_that_does_not_come_is_waited_for_within_bounds_and_told(caplog):
    held, began = threading.Event(), time.monotonic()

    with caplog.at_level(logging.WARNING, "kafkapipes"):
        end_client(held.wait, wait_s=0.1)

    held.set()
    assert 0.1 <= time.monotonic() - began < 1
    assert "has not ended within 0.1 s" in caplog.text


def test_an_end_that_is_not_waited_for_is_no_warning(caplog):
    held = threading.Event()

    with caplog.at_level(logging.WARNING, "kafkapipes"):
        end_client(held.wait, wait_s=0)

    held.set()
    assert caplog.text == ""


def test_what_an_end_raises_comes_out():
    def end():
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        end_client(end)


def test_the_last_reference_goes_in_the_thread_that_ends():
    class Client:
        def __del__(self):
            names.append(threading.current_thread().name)

    names, last_reference = [], [Client()]

    end_client(last_reference.clear)

    assert names == ["kafkapipes-release"]


def test_a_client_left_to_the_parent_is_never_freed():
    class Client:
        def __del__(self):
            freed.append(True)

    freed = []

    leave_to_parent(Client())
    gc.collect()

    assert freed == []


AT_THE_END = """
import sys
from kafkapipes.kafka.release import end_client
class Client:
    def __del__(self, finalizing=sys.is_finalizing, end_client=end_client):
        end_client(lambda: print("ended", finalizing(), flush=True))
client = Client()
client.itself = client
"""


def test_a_client_that_is_freed_by_the_interpreters_end_is_ended_without_a_thread():
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=30)

    assert (done.stdout, done.stderr) == ("ended True\n", "")


def test_a_client_that_hangs_when_it_is_closed_does_not_hold_up_a_read(embedded, monkeypatch):
    def hang(self):
        held.wait()
        close(self)

    held, began = threading.Event(), time.monotonic()
    monkeypatch.setenv("KAFKAPIPES_CLIENT", "python")
    close = PythonClient.close
    monkeypatch.setattr(PythonClient, "close", hang)
    embedded.fill("t", [(b"one", None), (b"two", None)])

    batches = list(RangeParser("t:0:0:2").read_partitions(embedded.bootstrap_servers))

    assert [list(batch.values) for batch in batches] == [[b"one", b"two"]]
    assert time.monotonic() - began < 10
    held.set()


FORKED = """
import os, signal, socket, threading
from kafkapipes import KafkaPipesError, StreamingKafkaDataset
from kafkapipes.kafka import release
from kafkapipes.testing import EmbeddedKafka

release.LOOK_UP_S = 0.5
NONE_SHUT = 100

def look_up():
    socket.getaddrinfo("127.0.0.1", 0, flags=socket.AI_ADDRCONFIG)

def look_up_for_ever():
    while True:
        look_up()

def child():
    if release.in_time(look_up, 2, "test"):
        return NONE_SHUT
    try:
        print([int(value[0]) for value, _ in stream], flush=True)
    except KafkaPipesError as exc:
        print(type(exc).__name__, exc, flush=True)
    return 0

with EmbeddedKafka() as kafka:
    kafka.create_topic("t")
    kafka.fill("t", [(bytes([number]), bytes([number])) for number in range(9)])
    message = {"topic": "t:0:0:9", "input_config": {"data_type": "uint8", "label_type": "uint8"}}
    stream = StreamingKafkaDataset(message, kafka.bootstrap_servers, "g", stall_timeout_s=5)
    look_up()
    for _ in range(3):
        threading.Thread(target=look_up_for_ever, daemon=True).start()
    code = NONE_SHUT
    while code == NONE_SHUT:
        if (pid := os.fork()) == 0:
            signal.alarm(60)
            os._exit(child())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code)
"""


def read_in_a_fork_whose_lookups_hang(client):
    """What a stream of nine records gives there."""
    environment = {**os.environ, "KAFKAPIPES_CLIENT": client}
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps this lock shut in a fork")
def test_where_look_ups_hang_the_direct_client_reads_all_the_same():
    assert read_in_a_fork_whose_lookups_hang("direct") == str(list(range(9)))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps this lock shut in a fork")
def test_where_look_ups_hang_no_client_of_librdkafka_is_made_and_the_error_says_what_to_do():
    found = read_in_a_fork_whose_lookups_hang("native")

    assert found.startswith("StalledError this process was forked while another thread")
    assert "multiprocessing_context='forkserver'" in found
