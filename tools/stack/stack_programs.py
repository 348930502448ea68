"""Start, stop, kill and pause the programs of the stack on loopback, and their command lines.

``stack_local`` composes them into the stack of `make stack-local`, ``scale_chain`` into the chain with Kafka.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "collector"
HOST = "127.0.0.1"
READY_S = 90.0
STOP_S = 15.0
PROMETHEUS_FEATURES = "exemplar-storage,created-timestamp-zero-ingestion"


def free_ports(count: int) -> list[int]:
    """Free ports below the range of outgoing connections."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randint(20_000, 32_000)  # noqa: S311 not a secret
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            found.add(port)
    return list(found)


@dataclass(frozen=True, slots=True)
class Program:
    """A command line and the address that answers when the program is ready.

    Attributes:
        ready: An ``http://`` address that answers 200, or a ``tcp://`` address that accepts a connection.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    ready: str


class Programs:
    """Programs by name, started in order. A context manager: entering starts all, leaving stops them in reverse order.

    Args:
        folder: The programs' home, with a log ``<name>.log`` for each.
        programs: The programs in the order of their start.
    """

    def __init__(self, folder: Path, programs: Mapping[str, Program]) -> None:
        self.folder = folder
        self.programs = dict(programs)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, name: str) -> str:
        """The output of a program since its first start."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self, name: str) -> None:
        """Start a program and return when it is ready.

        Raises:
            RuntimeError: It ended, or is not ready in time; with the end of its log.
        """
        self.launch(name)
        self.wait_ready(name)

    def launch(self, name: str) -> None:
        """Start a program without waiting."""
        program = self.programs[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                program.command,
                env={"PATH": os.defpath, "HOME": str(self.folder), **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it: stop() ends all in order
            )

    def wait_ready(self, name: str) -> None:
        """Return when a launched program is ready.

        Raises:
            RuntimeError: It ended, or is not ready in time; with the end of its log.
        """
        ready, process = self.programs[name].ready, self._processes[name]
        deadline = time.monotonic() + READY_S
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready ({ready}). Its log ends:\n{self.log(name)[-4000:]}")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """End a program at once with SIGKILL."""
        self._end(name, signal.SIGKILL)

    def terminate(self, name: str) -> None:
        """End a program with SIGTERM, and with SIGKILL if it does not end in time."""
        self._end(name, signal.SIGTERM)

    def pause(self, name: str) -> None:
        """Stop a program's execution with SIGSTOP, until ``resume``."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Continue a paused program."""
        self._processes[name].send_signal(signal.SIGCONT)

    def is_running(self, name: str) -> bool:
        """Whether the program was started and has not ended."""
        return name in self._processes and self._processes[name].poll() is None

    def pid(self, name: str) -> int:
        """The process id of a running program."""
        return self._processes[name].pid

    def __enter__(self) -> Self:
        try:
            for name in self.programs:
                self.start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all in the reverse order of their start, so that each can deliver its data."""
        for name in reversed(self.programs):
            if self.is_running(name):
                self.resume(name)  # a paused program would ignore SIGTERM
                self._end(name, signal.SIGTERM)

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes[name]
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        if parts.scheme == "tcp":
            socket.create_connection((parts.hostname or HOST, parts.port or 0), timeout=2).close()
            return True
        with urllib.request.urlopen(address, timeout=2) as response:  # noqa: S310 http on loopback
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True, slots=True)
class CollectorPorts:
    """The ports of one collector."""

    otlp_grpc: int
    otlp_http: int
    health: int
    metrics: int


def collector(
    binary: Path, configs: Sequence[Path], ports: CollectorPorts, state: Path, environment: Mapping[str, str]
) -> Program:
    """A collector with merged configs; ``environment`` has the addresses of its destinations."""
    own = {
        "OTELCOL_LISTEN_HOST": HOST,
        "OTELCOL_GRPC_PORT": str(ports.otlp_grpc),
        "OTELCOL_HTTP_PORT": str(ports.otlp_http),
        "OTELCOL_HEALTH_PORT": str(ports.health),
        "OTELCOL_METRICS_PORT": str(ports.metrics),
        "OTELCOL_STATE_DIR": str(state),
        "GOMEMLIMIT": "400MiB",
    }
    command = [str(binary), *(f"--config={path}" for path in configs)]
    return Program(command, {**own, **environment}, f"http://{HOST}:{ports.health}/")


@dataclass(frozen=True, slots=True)
class JaegerPorts:
    """The ports of one Jaeger."""

    query: int
    query_grpc: int
    otlp_grpc: int
    otlp_http: int
    health: int
    metrics: int


def jaeger(binary: Path, ports: JaegerPorts, data: Path, prometheus_url: str) -> Program:
    """Jaeger with its data on disk and Prometheus for its Monitor tab."""
    environment = {
        "JAEGER_LISTEN_HOST": HOST,
        "JAEGER_QUERY_PORT": str(ports.query),
        "JAEGER_QUERY_GRPC_PORT": str(ports.query_grpc),
        "JAEGER_OTLP_GRPC_PORT": str(ports.otlp_grpc),
        "JAEGER_OTLP_HTTP_PORT": str(ports.otlp_http),
        "JAEGER_HEALTH_PORT": str(ports.health),
        "JAEGER_METRICS_PORT": str(ports.metrics),
        "JAEGER_DATA_DIR": str(data),
        "JAEGER_UI_CONFIG": str(CONFIGS / "jaeger" / "ui-config.json"),
        "PROMETHEUS_URL": prometheus_url,
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    command = [str(binary), f"--config={CONFIGS / 'jaeger' / 'config.yaml'}"]
    return Program(command, environment, f"http://{HOST}:{ports.health}/status")


def prometheus(binary: Path, port: int, folder: Path, scraped: Mapping[str, Sequence[int]], interval: str) -> Program:
    """Prometheus with a copy of its config in ``folder``, as its addresses cannot come from the environment.

    ``scraped`` has the addresses of docker compose, each with the ports that replace it. Prometheus scrapes and
    evaluates at the interval.
    """
    config = folder / "prometheus"
    shutil.rmtree(config, ignore_errors=True)
    shutil.copytree(CONFIGS / "prometheus", config)
    file = config / "prometheus.yml"
    file.write_text(local_addresses(file.read_text(), scraped, interval))
    command = [
        str(binary),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
        f"--web.listen-address={HOST}:{port}",
        "--web.enable-otlp-receiver",
        f"--enable-feature={PROMETHEUS_FEATURES}",
    ]
    return Program(command, {}, f"http://{HOST}:{port}/-/ready")


def local_addresses(config: str, scraped: Mapping[str, Sequence[int]], interval: str) -> str:
    """Prometheus' config with local addresses instead of those of docker compose.

    Raises:
        RuntimeError: The config does not scrape an address of docker compose.
    """
    for address, ports in scraped.items():
        if f'"{address}"' not in config:
            raise RuntimeError(f"collector/prometheus/prometheus.yml does not scrape {address}")
        config = config.replace(f'"{address}"', ", ".join(f'"{HOST}:{port}"' for port in ports))
    return re.sub(r"(scrape|evaluation)_interval: \w+", rf"\1_interval: {interval}", config)
