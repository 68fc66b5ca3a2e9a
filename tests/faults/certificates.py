"""Certificates for TLS listeners, right and wrong ones, by the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_RIGHT = "subjectAltName=IP:127.0.0.1,DNS:localhost"
_ELSEWHERE = "subjectAltName=DNS:elsewhere.example"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files.

    Attributes:
        ca: the certificate of the authority that signed all servers'
        other_ca: that of an authority that signed none
        servers: "good", "expired", "other-host": certificate and key in one file
    """

    ca: Path
    other_ca: Path
    servers: dict[str, Path]


def make_certificates(folder: Path) -> Certificates:
    """Make them all, which takes about 0.1 s."""
    ca, other_ca = (_authority(folder, name) for name in ("ca", "other-ca"))
    kinds = {"good": (30, _RIGHT), "expired": (-1, _RIGHT), "other-host": (30, _ELSEWHERE)}
    servers = {name: _server(folder, name, ca, days, extension) for name, (days, extension) in kinds.items()}
    return Certificates(ca, other_ca, servers)


def _authority(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    new = ["-x509", *_new_key(folder / f"{name}.key"), "-subj", f"/CN=kafkapipes {name}", "-days", "30"]
    _openssl("req", *new, "-addext", "keyUsage=critical,keyCertSign", "-out", certificate)
    return certificate


def _server(folder: Path, name: str, ca: Path, days: int, extension: str) -> Path:
    key, request, settings, both = (folder / f"{name}.{end}" for end in ("key", "csr", "ext", "pem"))
    _openssl("req", *_new_key(key), "-subj", f"/CN=kafkapipes {name}", "-out", request)
    settings.write_text(extension)
    authority = ["-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial"]
    certificate = _openssl("x509", "-req", "-in", request, *authority, "-days", days, "-extfile", settings)
    both.write_text(key.read_text() + certificate)
    return both


def _new_key(path: Path) -> list[str | Path]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def _openssl(*words: object) -> str:
    return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, text=True).stdout
