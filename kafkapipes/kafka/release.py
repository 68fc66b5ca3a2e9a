"""The end of a client of Kafka: waited for within bounds, and never in a process that a fork has brought it to."""

import logging
import sys
import threading
from collections.abc import Callable

END_S = 2.0  # in which a client ends that nothing holds up: some milliseconds on a quiet machine
_log = logging.getLogger("kafkapipes")
_inherited: list[object] = []  # clients that a fork has brought here


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
    if sys.is_finalizing():  # a thread that is started now would never run
        end()
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            end()
        except BaseException as exc:
            raised.append(exc)

    ending = threading.Thread(target=run, name="kafkapipes-release", daemon=True)
    try:
        ending.start()
    except RuntimeError:  # no thread is to be had
        end()
        return
    ending.join(wait_s)
    if raised:
        raise raised.pop()
    if wait_s and ending.is_alive():
        _log.warning(
            "a client of Kafka has not ended within %g s (a name server that hangs?), it is left behind", wait_s
        )


def leave_to_parent(*clients: object) -> None:
    """Keep clients that a fork has brought here from being freed: that would hang or abort the process."""
    _inherited.extend(clients)
