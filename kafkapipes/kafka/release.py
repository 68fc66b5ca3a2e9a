"""What may hang in a client of Kafka, such as its end: waited for within bounds; and clients that a fork inherits."""

import logging
import sys
import threading
from collections.abc import Callable

END_S = 2.0  # in which a client ends that nothing holds up: some milliseconds on a quiet machine
_log = logging.getLogger("kafkapipes")
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
