"""What may hang in a client of Kafka, such as its end: waited for within bounds; and what a fork inherits."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from kafkapipes.errors import StalledError

END_S = 2.0  # in which a client ends that nothing holds up: some milliseconds on a quiet machine
LOOK_UP_S = 5.0  # in which an address is "looked up" that is a number: 50 microseconds, or for ever
_log = logging.getLogger("kafkapipes")
_is_new_fork = False
_inherited: list[object] = []  # clients that a fork has brought here


def in_time(act: Callable[[], object], wait_s: float, name: str) -> bool:
    """Whether something was done within `wait_s`; else it goes on in a thread of its own, of that name.

    Raises:
        whatever `act` raises within `wait_s`
    """
    if sys.is_finalizing():  # a thread that is started now would never run
        act()
        return True
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as exc:
            raised.append(exc)

    acting = threading.Thread(target=run, name=name, daemon=True)
    try:
        acting.start()
    except RuntimeError:  # no thread is to be had
        act()
        return True
    acting.join(wait_s)
    if raised:
        raise raised.pop()
    return not acting.is_alive()


def end_client(end: Callable[[], object], wait_s: float = END_S) -> None:
    """Close or free a client, which `end` does, but wait no longer than `wait_s` for it.

    A client that is looking up a name ends only after that: when its name server has given up, or never in a process
    that was forked while another thread was looking one up, since the C library's lock stays shut there. It goes on
    ending in a thread of its own, which holds up nothing, not even the end of the process.

    Args:
        end: closes the client, or drops the last reference to it
        wait_s: seconds; 0 leaves the client to itself at once

    Raises:
        whatever `end` raises within `wait_s`
    """
    if not in_time(end, wait_s, "kafkapipes-release") and wait_s:
        _log.warning(
            "a client of Kafka has not ended within %g s (a name server that hangs?), it is left behind", wait_s
        )


def leave_to_parent(*clients: object) -> None:
    """Keep clients that a fork has brought here from being freed: that would hang or abort the process."""
    _inherited.extend(clients)


def check_lookups() -> None:
    """Make sure, before a client of librdkafka is made in a process that was forked, that it can work there.

    glibc has a lock around the network interfaces, which getaddrinfo(3) asks for with AI_ADDRCONFIG, as librdkafka does
    at every connection; fork(2) does not open it in the child. Where another thread held it then, no client connects.

    Raises:
        StalledError: it is so here
    """
    global _is_new_fork
    if not _is_new_fork:
        return

    def look_up() -> None:
        with suppress(OSError):
            socket.getaddrinfo("127.0.0.1", 0, flags=socket.AI_ADDRCONFIG)

    if not in_time(look_up, LOOK_UP_S, "kafkapipes-lookup"):
        raise StalledError(
            "this process was forked while another thread of its parent was connecting to a broker: the C library's "
            "lock on looking up addresses stays shut here, so no client of librdkafka can connect; fork while no other "
            "thread connects, or start processes another way: DataLoader(..., multiprocessing_context='forkserver')"
        )
    _is_new_fork = False


def _note_fork() -> None:
    global _is_new_fork
    _is_new_fork = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
