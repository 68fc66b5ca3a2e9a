"""Addresses of brokers: checked, and never shown where they are wrong. Pure."""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from kafkapipes.errors import ConfigError

# The client makes the best of anything else: port 99999 becomes 34463, and what it cannot read it leaves out.
_NAME = r"[A-Za-z0-9._-]{1,253}"
_IPV6 = r"\[[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,15})?\]"
_SERVER = re.compile(f"(?P<host>{_NAME}|{_IPV6})(:(?P<port>[0-9]{{1,5}}))?")


def joined_servers(servers: str | Sequence[str]) -> str:
    """The addresses as the client wants them.

    >>> joined_servers(["one:9092", "[::1]:9092, three"])
    'one:9092,[::1]:9092,three'

    Raises:
        ConfigError: one is no address. It is not shown: it may be a config, or hold a password.
    """
    wanted = "wanted 'host:port' (port 1 to 65535, an IPv6 address in brackets) or a list of such texts"
    listed = [servers] if isinstance(servers, str) else servers
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(item, str) for item in listed):
        raise ConfigError(f"bootstrap_servers is {_kinds(servers)}, {wanted}")
    parts = [part.strip() for item in listed for part in item.split(",")]
    for place, part in enumerate(parts, start=1):
        found = _SERVER.fullmatch(part)
        if found is None or not 1 <= int(found["port"] or 9092) <= 65_535:
            raise ConfigError(f"bootstrap_servers has in place {place} of {len(parts)} {_misspelt(part)}; {wanted}")
    return ",".join(parts)


def host_and_port(server: str) -> tuple[str, int]:
    """The parts of a checked address.

    >>> [host_and_port(server) for server in ("localhost:9093", "[::1]", "10.0.0.1")]
    [('localhost', 9093), ('::1', 9092), ('10.0.0.1', 9092)]
    """
    found = _SERVER.fullmatch(server)
    assert found is not None
    return found["host"].strip("[]"), int(found["port"] or 9092)


def is_loopback(server: str) -> bool:
    """Whether a checked address is this machine itself, so that nothing goes over a network.

    >>> [is_loopback(server) for server in ("localhost:9092", "127.0.0.1", "[::1]:9092", "10.0.0.1:9092")]
    [True, True, True, False]
    """
    found = _SERVER.fullmatch(server)
    host = found["host"].strip("[]") if found else ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _kinds(servers: object) -> str:
    if isinstance(servers, list | tuple):
        kinds = sorted({type(item).__name__ for item in servers})
        return f"a {type(servers).__name__} of {', '.join(kinds) or 'nothing'}"
    return f"a {type(servers).__name__}"


def _misspelt(part: str) -> str:
    """What is wrong with an address, without showing it."""
    if not part:
        return "nothing"
    if "@" in part:
        return "an '@': a user and a password belong in config, as sasl.username and sasl.password"
    if "://" in part:
        return "a '://': the protocol belongs in config, as security.protocol"
    return f"a text of {len(part)} characters that is no address"
