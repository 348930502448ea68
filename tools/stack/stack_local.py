"""Run the Collector, Jaeger and Prometheus on loopback with the configs of ``collector/``, as plain processes.

`make stack-local` runs them until Ctrl-C; the tests of the stack run them on free ports. The configs are those of
docker compose.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from stack_binaries import BuildError, binaries
from stack_programs import (
    CONFIGS,
    HOST,
    ROOT,
    CollectorPorts,
    JaegerPorts,
    Programs,
    collector,
    free_ports,
    jaeger,
    prometheus,
)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of the stack. The defaults are the ports that docker compose publishes."""

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
        """Free ports."""
        return cls(*free_ports(len(fields(cls))))

    @property
    def collector(self) -> CollectorPorts:
        """The collector's."""
        return CollectorPorts(self.otlp_grpc, self.otlp_http, self.collector_health, self.collector_metrics)

    @property
    def jaeger(self) -> JaegerPorts:
        """Jaeger's."""
        return JaegerPorts(
            self.jaeger_query,
            self.jaeger_query_grpc,
            self.jaeger_otlp_grpc,
            self.jaeger_otlp_http,
            self.jaeger_health,
            self.jaeger_metrics,
        )


class LocalStack(Programs):
    """Prometheus, Jaeger and a collector.

    Args:
        programs: The path of each program, as from ``stack_binaries.binaries()``.
        folder: For their data and logs (``<name>.log``).
        ports: Where they listen.
        overlays: Configs that the collector merges into its own, such as those of ``collector/overlays/``.
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
        self.ports = ports
        self.endpoint = f"http://{HOST}:{ports.otlp_http}"
        """Endpoint of programs, OTLP over HTTP."""
        self.jaeger = f"http://{HOST}:{ports.jaeger_query}"
        """Jaeger's page and API."""
        self.prometheus = f"http://{HOST}:{ports.prometheus}"
        """Prometheus' page and API."""
        folder.mkdir(parents=True, exist_ok=True)
        scraped = {
            "localhost:9090": [ports.prometheus],
            "otel-collector:8888": [ports.collector_metrics],
            "jaeger:8888": [ports.jaeger_metrics],
        }
        destinations = {
            "JAEGER_OTLP_ENDPOINT": f"{HOST}:{ports.jaeger_otlp_grpc}",
            "PROMETHEUS_OTLP_ENDPOINT": f"{self.prometheus}/api/v1/otlp",
            "SPAN_METRICS_FLUSH_INTERVAL": interval,
        }
        configs = [CONFIGS / "config.yaml", *overlays]
        super().__init__(
            folder,
            {
                "prometheus": prometheus(programs["prometheus"], ports.prometheus, folder, scraped, interval),
                "jaeger": jaeger(programs["jaeger"], ports.jaeger, folder / "jaeger", self.prometheus),
                "collector": collector(programs["otelcol"], configs, ports.collector, folder / "otelcol", destinations),
            },
        )


def main(names: Sequence[str]) -> None:
    """Start everything, print the addresses, and wait for Ctrl-C."""
    known = {path.stem: path for path in sorted((CONFIGS / "overlays").glob("*.yaml"))}
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(known)
        sys.exit(f'No overlay {", ".join(unknown)}. There are: {there}. Type: make stack-local ARGS="drop-content"')
    overlays = [known[name] for name in names]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LocalStack(binaries(), ROOT / ".stack", Ports(), overlays) as stack:
            print(f"Send to      export OTEL_EXPORTER_OTLP_ENDPOINT={stack.endpoint}")
            print(f"Jaeger       {stack.jaeger}   (its page is a placeholder in this build; the API is complete)")
            print(f"Prometheus   {stack.prometheus}")
            print(f"Logs, data   {stack.folder}")
            print("Ctrl-C stops them.", flush=True)
            while all(stack.is_running(name) for name in stack.programs):
                time.sleep(1)
            sys.exit(f"A program has ended; see the logs in {stack.folder}")
    except KeyboardInterrupt:
        print("stopped")
    except (BuildError, RuntimeError) as error:
        sys.exit(f"stack-local: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
