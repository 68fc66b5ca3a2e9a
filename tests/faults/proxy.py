"""A TCP proxy that does to connections what networks do, on command, and counts how often it really did.

Threads: each way of each connection is a loop of recv, fault and send, and a fault that blocks its loop is the
simplest model of a network that does not deliver.
"""

import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_char_p, c_int, c_int32, c_void_p

from confluent_kafka.admin import AdminClient

from kafkapipes.testing import EmbeddedKafka
from tests.kafka.node import free_ports

Rewrite = Callable[[bytes], bytes]
_CHUNK = 65_536
_TICK_S = 0.05  # the rate cap sends pieces of so many seconds; who cannot send looks so often whether it is cut


class Proxy:
    """Forwards connections from a port of 127.0.0.1 to `target`; a mode holds until the next is called.

    Args:
        port: 0 for a free one
        target: (host, port) of the server

    Attributes:
        servers: "127.0.0.1:PORT", what a client bootstraps from
    """

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.port = port or free_ports(1)[0]
        self.servers = f"127.0.0.1:{self.port}"
        self.target = target
        self._fired = self._connections = self._bytes_forwarded = 0
        self._changed = threading.Condition(threading.RLock())
        self._mode: _Mode = _Mode()
        self._closed = False
        self._links: set[_Link] = set()
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self._listen()
        self._spawn(self._accept)

    # Under the lock, so that who has seen a byte or a fault finds it counted.

    @property
    def fired(self) -> int:
        """How often faults happened, in units that each mode names."""
        with self._changed:
            return self._fired

    @property
    def connections(self) -> int:
        """How many were accepted."""
        with self._changed:
            return self._connections

    @property
    def bytes_forwarded(self) -> int:
        """Both ways together."""
        with self._changed:
            return self._bytes_forwarded

    def pass_through(self) -> None:
        """No fault; what a stall held back goes on."""
        self._switch(_Mode())

    def stall(self, open_only: bool = False) -> None:
        """A black hole: connections stay open and are accepted, nothing arrives. Fires: bytes held back.

        With `open_only` new connections pass, as behind a firewall that has forgotten the old ones.
        """
        self._switch(_Stall(self.connections if open_only else None))

    def refuse(self) -> None:
        """Cut all connections and listen no more. Fires: connections cut; who is refused later is not seen here."""
        with self._changed:
            self._fired += self._refuse()

    def reset_every(self, seed: int, mean_bytes: int) -> None:
        """Reset each connection after a random number of bytes from the server. Fires: resets.

        The number is drawn from an exponential distribution; the same seed draws the same for the n-th connection.
        """
        self._switch(_Reset(seed, mean_bytes))

    def throttle(self, bytes_per_second: float | None = None, chunk: int | None = None, delay_s: float = 0) -> None:
        """A slow link, each way by itself. Fires: pieces sent.

        Args:
            bytes_per_second: cap of the rate
            chunk: largest number of bytes sent at once
            delay_s: seconds before each read from either side goes on
        """
        self._switch(_Throttle(bytes_per_second, chunk, delay_s))

    def rewrite(self, function: Rewrite) -> None:
        """Change Kafka's responses: `function` is given each whole, from the correlation id on, without the length.

        It may give back a body of any length. Fires: bodies changed.
        """
        self._switch(_Responses(function))

    def flip(self, marker: bytes, times: int = 1) -> None:
        """Flip one bit of the byte right behind `marker`, in so many responses. Fires: bits flipped."""
        left = iter(range(times))

        def flipped(body: bytes) -> bytes:
            at = body.find(marker) + len(marker)
            if marker not in body or at >= len(body) or next(left, None) is None:
                return body
            return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]

        self.rewrite(flipped)

    def replace(self, old: bytes, new: bytes) -> None:
        """Replace bytes by as many others, wherever they occur in a response. Fires: responses changed."""
        assert len(old) == len(new), "another length would break the frames inside of the response"
        self.rewrite(lambda body: body.replace(old, new))

    def close(self) -> None:
        """Cut all connections and end all threads."""
        self._closed = True
        self._refuse()
        while self._threads:
            with self._changed:
                threads = list(self._threads)
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive(), "a thread of the proxy does not end"

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _switch(self, mode: "_Mode") -> None:
        with self._changed:
            self._mode = mode
            if self._listener is None:
                self._listen()
            self._changed.notify_all()

    def _refuse(self) -> int:
        with self._changed:
            self._mode = _Refuse()
            if self._listener:
                self._listener.shutdown(socket.SHUT_RDWR)  # a DataLoader's worker has inherited it, and keeps it open
                self._listener.close()
            self._listener = None
            self._changed.notify_all()
            return sum(link.reset() for link in self._links)

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.settimeout(0)

    def _accept(self) -> None:
        while not self._closed:
            with self._changed:
                try:
                    client = self._listener.accept()[0] if self._listener else None
                except OSError:
                    client = None
                if client is None:
                    self._changed.wait(0.01)
                    continue
                self._connections += 1
                number = self._connections
            try:
                client.settimeout(None)
                server = socket.create_connection(self.target, 5)
            except OSError:  # as if the server had refused
                _reset(client)
                continue
            link = _Link(client, server, number)
            with self._changed:
                self._links.add(link)
                if isinstance(self._mode, _Refuse):
                    link.reset()
                self._spawn(self._pump, link, client, server, False)
                self._spawn(self._pump, link, server, client, True)

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            try:
                function(*arguments)
            finally:
                with self._changed:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"proxy-{self.port}", daemon=True)
        with self._changed:
            self._threads.add(thread)
            thread.start()

    def _pump(self, link: "_Link", source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        way = _Way(self, link, sink, from_server)
        try:
            while piece := source.recv(_CHUNK):
                way.carry(piece)
            if not link.cut:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            with self._changed:
                link.reset()
        finally:
            with self._changed:
                link.ways -= 1
                if link.ways == 0:
                    self._links.discard(link)
                    link.close()


class _Link:
    """The two sockets of one proxied connection."""

    def __init__(self, client: socket.socket, server: socket.socket, number: int) -> None:
        self.client, self.server, self.number = client, server, number
        self.ways = 2
        self.cut = False
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> bool:
        """Send RST both ways and wake the threads; whether there was something to cut."""
        first, self.cut = not self.cut, True
        for end in (self.client, self.server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)  # wakes recv; the RST goes out when the last thread closes, and no FIN
        return first

    def close(self) -> None:
        self.client.close()
        self.server.close()


class _Way:
    """One direction of a connection: where the modes get bytes and put them."""

    def __init__(self, proxy: Proxy, link: _Link, sink: socket.socket, from_server: bool) -> None:
        self.proxy, self.link, self.sink, self.from_server = proxy, link, sink, from_server
        self.state: dict[_Mode, int] = {}
        self._held = bytearray()  # from the start of a frame
        self._length = bytearray()  # as far as sent, of a frame that is being sent as it comes
        self._left = 0  # bytes of such a frame after its length

    def carry(self, piece: bytes) -> None:
        """Pass on what came, as the mode of the moment has it; a changed mode takes over what is left."""
        rest: bytes | None = piece
        while rest is not None:
            self._check()
            rest = self.proxy._mode.carry(self, rest)

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            with self.proxy._changed:
                self._check()
                try:  # not sendall: nothing but a FIN could wake a thread out of that, and a reset sends none
                    sent = self.sink.send(left, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                self.proxy._bytes_forwarded += sent
            left = left[sent:]
            if not sent:
                select.select([], [self.sink], [], _TICK_S)

    def _check(self) -> None:
        if self.link.cut:
            raise ConnectionResetError("cut by the proxy")

    def fire(self, count: int = 1) -> None:
        with self.proxy._changed:
            self.proxy._fired += count

    def wait(self, mode: "_Mode", seconds: float | None = None) -> bool:
        """Wait, but no longer than the mode holds; whether it still holds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self.proxy._changed:
            while self.proxy._mode is mode and not self.link.cut:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return True
                self.proxy._changed.wait(left)
        return False

    def send_as_it_comes(self, piece: bytes) -> None:
        """Send now, and keep count of where frames begin, for a mode that may come and wants them whole."""
        data = bytes(self._held) + piece
        self._held.clear()
        self._follow(data)
        self.send(data)

    def whole_frames(self, piece: bytes) -> Iterator[bytes]:
        """The frames that are complete by now; the rest of one that was begun as it came is sent."""
        self._held += piece
        while self._held and (self._left or self._length):
            rest = bytes(self._held[: self._left or 4 - len(self._length)])
            del self._held[: len(rest)]
            self._follow(rest)
            self.send(rest)
        while len(self._held) >= 4 and len(self._held) >= (end := 4 + int.from_bytes(self._held[:4])):
            frame = bytes(self._held[:end])
            del self._held[:end]
            yield frame

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                step = min(4 - len(self._length), len(data) - at)
                self._length += data[at : at + step]
                if len(self._length) == 4:
                    self._left = int.from_bytes(self._length)
                    self._length.clear()
            at += step


class _Mode:
    """What is done to bytes; this one does nothing."""

    def carry(self, way: _Way, piece: bytes) -> bytes | None:
        """Send a piece; bytes that are given back were not sent, since the mode has changed."""
        way.send_as_it_comes(piece)
        return None


class _Refuse(_Mode):
    def carry(self, way: _Way, piece: bytes) -> bytes | None:
        raise ConnectionResetError("cut by the proxy")


class _Stall(_Mode):
    def __init__(self, last: int | None) -> None:
        self.last = last

    def carry(self, way: _Way, piece: bytes) -> bytes | None:
        if self.last is not None and way.link.number > self.last:
            return super().carry(way, piece)
        way.fire(len(piece))
        way.wait(self)
        return piece


class _Reset(_Mode):
    def __init__(self, seed: int, mean_bytes: int) -> None:
        self.seed, self.mean_bytes = seed, mean_bytes

    def carry(self, way: _Way, piece: bytes) -> bytes | None:
        if not way.from_server:
            return super().carry(way, piece)
        if self not in way.state:
            draw = random.Random(f"{self.seed}:{way.link.number}").expovariate(1 / self.mean_bytes)
            way.state[self] = max(1, int(draw))
        allowed = piece[: way.state[self]]
        way.send_as_it_comes(allowed)
        way.state[self] -= len(allowed)
        if way.state[self]:
            return None
        with way.proxy._changed:
            way.fire(way.link.reset())
        raise ConnectionResetError("cut by the proxy")


class _Throttle(_Mode):
    def __init__(self, bytes_per_second: float | None, chunk: int | None, delay_s: float) -> None:
        self.rate, self.delay_s = bytes_per_second, delay_s
        self.chunk = chunk or (max(1, int(bytes_per_second * _TICK_S)) if bytes_per_second else _CHUNK)

    def carry(self, way: _Way, piece: bytes) -> bytes | None:
        if self.delay_s and not way.wait(self, self.delay_s):
            return piece
        due = time.monotonic()
        for at in range(0, len(piece), self.chunk):
            part = piece[at : at + self.chunk]
            way.fire()
            way.send_as_it_comes(part)
            due += len(part) / self.rate if self.rate else 0
            if not way.wait(self, max(0.0, due - time.monotonic())):
                return piece[at + self.chunk :] or None
        return None


class _Responses(_Mode):
    def __init__(self, function: Rewrite) -> None:
        self.function = function

    def carry(self, way: _Way, piece: bytes) -> bytes | None:
        if not way.from_server:
            return super().carry(way, piece)
        for frame in way.whole_frames(piece):
            body = self.function(frame[4:])
            if body != frame[4:]:
                way.fire()
            way.send(len(body).to_bytes(4) + body)
        return None


@contextmanager
def proxied_mock(embedded: EmbeddedKafka) -> Iterator[Proxy]:
    """A proxy before the one broker of an EmbeddedKafka, to which all its clients are sent until the context ends."""
    place = embedded._library.rd_kafka_mock_broker_set_host_port
    place.argtypes, place.restype = [c_void_p, c_int32, c_char_p, c_int], None
    host, port = embedded.bootstrap_servers.split(":")
    before = AdminClient({"bootstrap.servers": embedded.bootstrap_servers}).list_topics(timeout=10).brokers[1]
    with Proxy(0, (host, int(port))) as proxy:
        place(embedded._cluster, 1, b"127.0.0.1", proxy.port)
        try:
            yield proxy
        finally:
            place(embedded._cluster, 1, before.host.encode(), before.port)


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
