"""The load of the tests of scale, and the count of its spans at both ends of the chain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scale_chain import GATEWAYS, Chain
from stack_programs import HOST

from stack_backends import Jaeger, eventually

PROGRAM = Path(__file__).parent / "scale" / "program.py"
PROCESSES = 8
PAUSE_S = 0.6
STEP = 500
ARRIVED_S = 180.0
DRAINED_S = 300.0
"""The metrics of the programs, eight requests a second, continue while the agent sends those that it has queued."""
STILL_S = 2.0
"""How long a counter must not change before the chain counts as empty: four times its longest batching time."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """The processor time that a process has used."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / CLOCK_TICKS  # utime and stime: proc(5)


@dataclass
class Sent:
    """Reports of the programs of a phase.

    Attributes:
        spans: The ids of the spans that were reported stored, by trace.
        failed: The traces of the workflows that failed on purpose.
        reports: The last report of each program that was not killed.
    """

    spans: dict[str, set[str]]
    failed: set[str]
    reports: list[dict[str, Any]]

    @property
    def count(self) -> int:
        return sum(len(ids) for ids in self.spans.values())


@dataclass
class Row:
    """A line of the table: what became of the spans of one phase."""

    name: str
    sent: int
    received: int
    lost: int
    invented: int
    duplicates: int | None
    seconds: float
    remarks: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        remarks = ", ".join(f"{name} {value}" for name, value in self.remarks.items())
        duplicates = "-" if self.duplicates is None else self.duplicates
        numbers = f"{self.sent:>8} {self.received:>9} {self.lost:>6} {duplicates:>10} {self.seconds:>7.0f}"
        return f"{self.name:<46} {numbers}  {remarks}".rstrip()


HEADER = f"{'fault':<46} {'sent':>8} {'received':>9} {'lost':>6} {'duplicates':>10} {'seconds':>7}"


class Programs:
    """Programs on one machine that share one store and send to one endpoint."""

    def __init__(self, endpoint: str, folder: Path, count: int = PROCESSES, service: str = "load") -> None:
        self.folder = folder
        self._count = count
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NODESPAN_"))}
        self.environment = {
            **ours,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_SERVICE_NAME": service,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "NODESPAN_STORE": str(folder / "store.db"),
        }
        self.workflows = 0
        """Workflows that were run in all phases, without those of killed programs."""
        self._processes: list[subprocess.Popen[str]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start stopped programs, and wait until all accept commands."""
        running = [process for process in self._processes if process.poll() is None]
        with (self.folder / "programs.log").open("ab") as log:
            started = [
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), str(self.folder)],
                    env=self.environment, cwd=self.folder,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                )
                for _ in range(self._count - len(running))
            ]  # fmt: skip
        self._processes = running + started
        for process in started:
            self._answer(process)

    @contextmanager
    def running(self, phase: str, pause_s: float = PAUSE_S, fail_every: int = 0) -> Iterator[Sent]:
        """Run workflows in all programs. Afterwards the yielded object has the sent spans; all are delivered."""
        sent = Sent({}, set(), [])
        self._tell(f"run {phase} {pause_s} {fail_every}")
        yield sent
        self._tell("stop")
        sent.reports = [self._answer(process) for process in self._processes if process.poll() is None]
        self.workflows += sum(report["workflows"] for report in sent.reports)
        for path in self.folder.glob(f"{phase}-*.ids"):
            for line in path.read_text().splitlines():
                trace_id, failed, *ids = line.split()
                sent.spans[trace_id] = set(ids)
                if failed == "failed":
                    sent.failed.add(trace_id)

    def kill(self, count: int) -> None:
        """End this number of programs with SIGKILL."""
        for process in self._processes[:count]:
            process.kill()
            process.wait()
            self._close(process)
        self._processes = self._processes[count:]

    def flush(self) -> str:
        """Run `nodespan flush` for their store and return its output."""
        command = [sys.executable, "-c", "from nodespan.cli import main; main()", "flush"]
        ran = subprocess.run(command, env=self.environment, check=False, capture_output=True, text=True, timeout=180)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def stop(self) -> None:
        self._tell("end")
        for process in self._processes:
            process.wait(60)
            self._close(process)

    def _close(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()

    def _tell(self, command: str) -> None:
        for process in self._processes:
            if process.poll() is None:
                assert process.stdin is not None
                process.stdin.write(f"{command}\n")
                process.stdin.flush()

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"a program ended: {(self.folder / 'programs.log').read_text()[-2000:]}"
        return json.loads(line)


class Counters:
    """The chain's own counters of spans, read from its metrics pages."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def read(self, port: int, name: str, **labels: str) -> float:
        """The sum of a counter's series that have these labels; 0 while the program is away or has none."""
        page = self._page(port)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in page.splitlines() if re.match(rf"{name}(\{{|\s)", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(pair in line for pair in wanted))

    def _page(self, port: int) -> str:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as response:
                return response.read().decode()
        except OSError:
            return ""

    def queues(self) -> dict[str, list[str]]:
        """The lines of the metrics pages with the fill level of the collectors' queues."""
        wanted = ("otelcol_exporter_queue_size{", "otelcol_exporter_send_failed", "otelcol_receiver_refused")
        pages = {name: self._page(ports.metrics) for name, ports in self._chain.ports.items()}
        return {
            name: [line for line in page.splitlines() if line.startswith(wanted) and not line.endswith(" 0")]
            for name, page in pages.items()
        }

    def into_jaeger(self) -> int:
        """Spans that Jaeger accepted since its start."""
        return round(self.read(self._chain.jaeger_ports.metrics, "otelcol_receiver_accepted_spans_total"))

    def out_of_gateways(self) -> int:
        """Spans for which Jaeger gave the gateways an acknowledgement, since the gateways' start."""
        return round(
            sum(
                self.read(
                    self._chain.ports[name].metrics, "otelcol_exporter_sent_spans_total", exporter="otlp_grpc/jaeger"
                )
                for name in GATEWAYS
            )
        )

    def of_agent(self, name: str) -> int:
        """A counter or gauge of spans of the agent."""
        return round(self.read(self._chain.ports["agent"].metrics, name))

    def queued_for_jaeger(self) -> int:
        """Requests in the gateways' queues for Jaeger."""
        return round(
            sum(
                self.read(self._chain.ports[name].metrics, "otelcol_exporter_queue_size", exporter="otlp_grpc/jaeger")
                for name in GATEWAYS
            )
        )

    def refused_by_agent(self) -> int:
        """Spans that the agent refused since its start."""
        return self.of_agent("otelcol_receiver_refused_spans_total")


class Count:
    """Counts the spans of phases at both ends."""

    def __init__(self, chain: Chain) -> None:
        self.counters = Counters(chain)
        self._jaeger = Jaeger(chain.jaeger)

    def seen(self, trace_id: str) -> set[str]:
        """The ids of a trace that Jaeger has now."""
        return {span.span_id for span in self._jaeger.trace(trace_id)}

    def wait_until_arrived(self, sent: Sent) -> dict[str, set[str]]:
        """Wait until Jaeger has every id that was reported stored; returns all ids that it has, by trace."""
        seen: dict[str, set[str]] = {}

        def missing() -> dict[str, set[str]]:
            for trace_id, ids in sent.spans.items():
                if not ids <= seen.get(trace_id, set()):
                    seen[trace_id] = self.seen(trace_id)
            return {trace_id: left for trace_id, ids in sent.spans.items() if (left := ids - seen[trace_id])}

        eventually(missing, lambda left: not left, "spans reported stored that Jaeger does not have", ARRIVED_S)
        return seen

    def wait_until_agent_empty(self) -> None:
        """Wait until the agent has once sent all accepted data."""
        size = "otelcol_exporter_queue_size"
        eventually(lambda: self.counters.of_agent(size), lambda queued: queued == 0, "agent's queue", DRAINED_S)

    def wait_until_gateways_empty(self) -> None:
        """Wait until the gateways have once sent their queues to Jaeger."""
        eventually(self.counters.queued_for_jaeger, lambda size: size == 0, "gateways' queues for Jaeger", ARRIVED_S)

    def wait_until_still(self, still_s: float = STILL_S) -> None:
        """Wait until no more spans arrive in Jaeger."""
        last, since = self.counters.into_jaeger(), time.monotonic()
        deadline = since + ARRIVED_S
        while time.monotonic() - since < still_s:
            assert time.monotonic() < deadline, f"spans still arrive in Jaeger: {last}"
            time.sleep(0.2)
            if (now := self.counters.into_jaeger()) != last:
                last, since = now, time.monotonic()

    def row(
        self, name: str, sent: Sent, seen: dict[str, set[str]], deliveries: int | None, seconds: float, **remarks: Any
    ) -> Row:
        """The line of a phase. ``deliveries``: number of all spans sent to Jaeger, if known."""
        received = sum(len(seen[trace_id] & ids) for trace_id, ids in sent.spans.items())
        invented = sum(len(seen[trace_id] - ids) for trace_id, ids in sent.spans.items())
        duplicates = None if deliveries is None else deliveries - received - invented
        return Row(name, sent.count, received, sent.count - received, invented, duplicates, seconds, remarks)

    def progress(self, spans: int, what: str) -> None:
        """Wait until Jaeger has accepted this number of further spans."""
        before = self.counters.into_jaeger()
        eventually(self.counters.into_jaeger, lambda now: now >= before + spans, what, ARRIVED_S)
