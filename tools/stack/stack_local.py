"""Runs the Collector, Jaeger and Prometheus on loopback with the configs of ``collector/``, as plain processes.

`make stack-local` does so until Ctrl-C; the tests of the stack do it on free ports. The configs are those of docker
compose: the collector's and Jaeger's take addresses and paths from the environment; Prometheus cannot, so it gets a
copy in which the other programs' addresses are replaced.
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
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from stack_binaries import BuildError, binaries

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "collector"
HOST = "127.0.0.1"
READY_S = 90.0
STOP_S = 15.0
PROMETHEUS_FEATURES = "exemplar-storage,created-timestamp-zero-ingestion"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each thing listens. The defaults are those that docker compose publishes, where it publishes them."""

    otlp_grpc: int = 4317
    otlp_http: int = 4318
    collector_health: int = 13133
    collector_metrics: int = 8888
    jaeger_query: int = 16686
    jaeger_query_grpc: int = 16685
    jaeger_otlp_grpc: int = 24317
    jaeger_otlp_http: int = 24318
    jaeger_health: int = 23133
    jaeger_metrics: int = 28888
    prometheus: int = 9090

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody uses now, below those that the system gives to outgoing connections."""
        found: set[int] = set()
        while len(found) < len(fields(cls)):
            port = random.randint(20_000, 32_000)  # noqa: S311 nothing to guess
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind((HOST, port))
                found.add(port)
        return cls(*found)


@dataclass(frozen=True, slots=True)
class Program:
    """How one of the three is started, and where it says that it is ready."""

    command: Sequence[str]
    environment: Mapping[str, str]
    ready: str


class LocalStack:
    """The three programs. A context manager: entering starts all, leaving stops them.

    Args:
        programs: Where each program is, as ``stack_binaries.binaries()`` says.
        folder: For their data and logs (``<name>.log``).
        ports: Where they listen.
        overlays: Configs that the collector adds to its own, such as those of ``collector/overlays/``.
        interval: How often span metrics are flushed and Prometheus scrapes and evaluates.
    """

    def __init__(
        self,
        programs: Mapping[str, Path],
        folder: Path,
        ports: Ports,
        overlays: Sequence[Path] = (),
        interval: str = "15s",
    ) -> None:
        self.folder = folder
        self.ports = ports
        self._binaries = programs
        self._overlays = overlays
        self._interval = interval
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._programs = {
            "prometheus": self._prometheus(),
            "jaeger": self._jaeger(),
            "collector": self._collector(),
        }

    @property
    def endpoint(self) -> str:
        """Where programs send OTLP over HTTP."""
        return f"http://{HOST}:{self.ports.otlp_http}"

    @property
    def jaeger(self) -> str:
        """Jaeger's page and API."""
        return f"http://{HOST}:{self.ports.jaeger_query}"

    @property
    def prometheus(self) -> str:
        """Prometheus' page and API."""
        return f"http://{HOST}:{self.ports.prometheus}"

    def log(self, name: str) -> str:
        """What a program has said since the beginning, over its restarts."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self, name: str) -> None:
        """Starts a program and returns when it is ready.

        Raises:
            RuntimeError: It ended, or is not ready in time; with the end of its log.
        """
        program = self._programs[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = process = subprocess.Popen(
                program.command,
                env={"PATH": os.defpath, "HOME": str(self.folder), **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop them in order
            )
        deadline = time.monotonic() + READY_S
        while not _answers(program.ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready ({program.ready}). Its log ends:\n{self.log(name)[-4000:]}")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """Ends a program at once, as a crash or a power cut does (SIGKILL)."""
        self._end(name, signal.SIGKILL)

    def is_running(self, name: str) -> bool:
        """Whether it was started and has not ended."""
        return name in self._processes and self._processes[name].poll() is None

    def __enter__(self) -> LocalStack:
        try:
            for name in self._programs:
                self.start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops all, the collector first, so that what it holds can still be delivered."""
        for name in reversed(self._programs):
            if self.is_running(name):
                self._end(name, signal.SIGTERM)

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes[name]
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _collector(self) -> Program:
        ports = self.ports
        files = [CONFIGS / "config.yaml", *self._overlays]
        environment = {
            "OTELCOL_LISTEN_HOST": HOST,
            "OTELCOL_GRPC_PORT": str(ports.otlp_grpc),
            "OTELCOL_HTTP_PORT": str(ports.otlp_http),
            "OTELCOL_HEALTH_PORT": str(ports.collector_health),
            "OTELCOL_METRICS_PORT": str(ports.collector_metrics),
            "OTELCOL_STATE_DIR": str(self.folder / "otelcol"),
            "JAEGER_OTLP_ENDPOINT": f"{HOST}:{ports.jaeger_otlp_grpc}",
            "PROMETHEUS_OTLP_ENDPOINT": f"{self.prometheus}/api/v1/otlp",
            "SPAN_METRICS_FLUSH_INTERVAL": self._interval,
            "GOMEMLIMIT": "400MiB",
        }
        command = [str(self._binaries["otelcol"]), *(f"--config={path}" for path in files)]
        return Program(command, environment, f"http://{HOST}:{ports.collector_health}/")

    def _jaeger(self) -> Program:
        ports = self.ports
        environment = {
            "JAEGER_LISTEN_HOST": HOST,
            "JAEGER_QUERY_PORT": str(ports.jaeger_query),
            "JAEGER_QUERY_GRPC_PORT": str(ports.jaeger_query_grpc),
            "JAEGER_OTLP_GRPC_PORT": str(ports.jaeger_otlp_grpc),
            "JAEGER_OTLP_HTTP_PORT": str(ports.jaeger_otlp_http),
            "JAEGER_HEALTH_PORT": str(ports.jaeger_health),
            "JAEGER_METRICS_PORT": str(ports.jaeger_metrics),
            "JAEGER_DATA_DIR": str(self.folder / "jaeger"),
            "JAEGER_UI_CONFIG": str(CONFIGS / "jaeger" / "ui-config.json"),
            "PROMETHEUS_URL": self.prometheus,
            "OTEL_TRACES_SAMPLER": "always_off",
        }
        command = [str(self._binaries["jaeger"]), f"--config={CONFIGS / 'jaeger' / 'config.yaml'}"]
        return Program(command, environment, f"http://{HOST}:{ports.jaeger_health}/status")

    def _prometheus(self) -> Program:
        config = self.folder / "prometheus"
        shutil.rmtree(config, ignore_errors=True)
        shutil.copytree(CONFIGS / "prometheus", config)
        text = (config / "prometheus.yml").read_text()
        (config / "prometheus.yml").write_text(self.local_addresses(text))
        command = [
            str(self._binaries["prometheus"]),
            f"--config.file={config / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'prometheus-data'}",
            f"--web.listen-address={HOST}:{self.ports.prometheus}",
            "--web.enable-otlp-receiver",
            f"--enable-feature={PROMETHEUS_FEATURES}",
        ]
        return Program(command, {}, f"{self.prometheus}/-/ready")

    def local_addresses(self, config: str) -> str:
        """Prometheus' config with the addresses of this stack instead of those of docker compose.

        Raises:
            RuntimeError: An address of docker compose is not in it.
        """
        for address, port in (
            ("localhost:9090", self.ports.prometheus),
            ("otel-collector:8888", self.ports.collector_metrics),
            ("jaeger:8888", self.ports.jaeger_metrics),
        ):
            if address not in config:
                raise RuntimeError(f"collector/prometheus/prometheus.yml does not scrape {address}")
            config = config.replace(address, f"{HOST}:{port}")
        return re.sub(r"(scrape|evaluation)_interval: \w+", rf"\1_interval: {self._interval}", config)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 http on loopback
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def main(names: Sequence[str]) -> None:
    """Starts everything, says what to open, and waits for Ctrl-C."""
    known = {path.stem: path for path in sorted((CONFIGS / "overlays").glob("*.yaml"))}
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(known)
        sys.exit(f'No overlay {", ".join(unknown)}. There are: {there}. Type: make stack-local ARGS="drop-content"')
    overlays = [known[name] for name in names]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LocalStack(binaries(), ROOT / ".stack", Ports(), overlays) as stack:
            print(f"Send to      export OTEL_EXPORTER_OTLP_ENDPOINT={stack.endpoint}")
            print(f"Jaeger       {stack.jaeger}   (its page is a placeholder in this build; the API is whole)")
            print(f"Prometheus   {stack.prometheus}")
            print(f"Logs, data   {stack.folder}")
            print("Ctrl-C stops them.", flush=True)
            while all(stack.is_running(name) for name in ("collector", "jaeger", "prometheus")):
                time.sleep(1)
            sys.exit(f"One of them has ended; see the logs in {stack.folder}")
    except KeyboardInterrupt:
        print("stopped")
    except (BuildError, RuntimeError) as error:
        sys.exit(f"stack-local: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
