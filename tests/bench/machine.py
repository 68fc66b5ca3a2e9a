"""On what was measured: the machine and the versions."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.kafka.cluster import OwnBroker
from tests.kafka.node import VERSION


def machine() -> dict[str, str]:
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(cluster: Any, peers: str) -> dict[str, str]:
    import confluent_kafka

    packages = ", ".join(f"{name} {version(name)}" for name in ("kafkapipes", "torch", "numpy", "confluent-kafka"))
    return {
        "software": f"Python {platform.python_version()}, {packages} (librdkafka {confluent_kafka.libversion()[0]})",
        "broker": f"Kafka {VERSION}, one broker" if isinstance(cluster, OwnBroker) else "a broker that was there",
        "others": _peer_versions(peers),
    }


def _peer_versions(peers: str) -> str:
    code = (
        "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in ('kafka-python', 'ray', 'daft')))"
    )
    try:
        done = subprocess.run([peers, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not installed"
    return re.sub(r"(\d) ", r"\1, ", done.stdout.strip())
