"""The chain for more than one machine, on loopback: an agent, Kafka, two gateways, Jaeger and Prometheus.

    programs --OTLP--> agent (queue on disk) --> Kafka (3 partitions) --> gateway-1, gateway-2 --> Jaeger, Prometheus

The configs are those of ``collector/``. The tests of scale run it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack_programs import (
    CONFIGS,
    HOST,
    CollectorPorts,
    JaegerPorts,
    Program,
    Programs,
    collector,
    free_ports,
    jaeger,
    prometheus,
)

GATEWAYS = ("gateway-1", "gateway-2")
TOPICS = ("nodespan-spans", "nodespan-metrics", "nodespan-logs")
GROUP = "nodespan-gateways"
PARTITIONS = 3
BROKER = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers={host}:{controller}
log.dirs={data}
message.max.bytes=4194304
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A partition, the member of the consumer group that reads it, and the group's place in it."""

    topic: str
    partition: int
    committed: int
    end: int
    member: str


class Chain(Programs):
    """The chain.

    Args:
        binaries: The path of each program, as from ``stack_binaries.scale_binaries()``.
        folder: For their data and logs.
        overlays: Configs that both gateways merge into theirs.
    """

    def __init__(
        self,
        binaries: Mapping[str, Path],
        folder: Path,
        overlays: Sequence[Path] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._binaries = binaries
        agent, first, second = (CollectorPorts(*free_ports(4)) for _ in range(3))
        self.ports = {"agent": agent, **dict(zip(GATEWAYS, (first, second), strict=True))}
        self.jaeger_ports = JaegerPorts(*free_ports(6))
        prometheus_port, broker, controller = free_ports(3)
        self.endpoint = f"http://{HOST}:{agent.otlp_http}"
        """Endpoint of programs, OTLP over HTTP."""
        self.jaeger = f"http://{HOST}:{self.jaeger_ports.query}"
        self.prometheus = f"http://{HOST}:{prometheus_port}"
        self.broker = f"{HOST}:{broker}"
        config = folder / "kafka.properties"
        config.write_text(BROKER.format(host=HOST, port=broker, controller=controller, data=folder / "kafka"))
        scraped = {
            "localhost:9090": [prometheus_port],
            "otel-collector:8888": [ports.metrics for ports in self.ports.values()],
            "jaeger:8888": [self.jaeger_ports.metrics],
        }
        super().__init__(
            folder,
            {
                "prometheus": prometheus(binaries["prometheus"], prometheus_port, folder, scraped, "1s"),
                "jaeger": jaeger(binaries["jaeger"], self.jaeger_ports, folder / "jaeger", self.prometheus),
                "kafka": Program(
                    [str(binaries["kafka"]), str(config)],
                    {"JAVA": shutil.which("java") or "java"},
                    f"tcp://{self.broker}",
                ),
            },
        )
        for name in GATEWAYS:
            self.set_gateway(name, overlays)
        self.set_agent()

    def start(self, name: str) -> None:
        """Start a program; with a new broker the topics are created."""
        is_new = name == "kafka" and not (self.folder / "kafka").exists()
        super().start(name)
        for topic in TOPICS if is_new else ():
            self.kafka_tool("TopicCommand", "--create", "--topic", topic, "--partitions", str(PARTITIONS))

    def set_gateway(self, name: str, overlays: Sequence[Path], **variables: str) -> None:
        """Set the overlays and environment variables with which a gateway starts the next time."""
        files = ["config.yaml", "scale-out/gateway.yaml", "scale-out/kafka-in.yaml"]
        environment = {
            "KAFKA_BROKER": self.broker,
            "JAEGER_OTLP_ENDPOINT": f"{HOST}:{self.jaeger_ports.otlp_grpc}",
            "PROMETHEUS_OTLP_ENDPOINT": f"{self.prometheus}/api/v1/otlp",
            "SPAN_METRICS_FLUSH_INTERVAL": "1s",
            **variables,
        }
        self.programs[name] = collector(
            self._binaries["otelcol"],
            [*(CONFIGS / file for file in files), *overlays],
            self.ports[name],
            self.folder / name,
            environment,
        )

    def kafka_tool(self, tool: str, *arguments: str, given: bytes = b"") -> str:
        """Run one of Kafka's tools against the broker and return its output.

        Raises:
            RuntimeError: It failed; with its output.
        """
        command = [self._binaries["kafka"], f"org.apache.kafka.tools.{tool}", "--bootstrap-server", self.broker]
        ran = subprocess.run([*command, *arguments], check=False, capture_output=True, input=given, timeout=60)
        if ran.returncode:
            raise RuntimeError(f"{tool} {' '.join(arguments)} failed: {(ran.stdout + ran.stderr).decode()}")
        return ran.stdout.decode()

    def set_agent(self, state: Path | None = None, wrapper: Sequence[str] = ()) -> None:
        """Set the directory of the agent's queue, and a command that runs the agent, for its next start."""
        program = collector(
            self._binaries["otelcol"],
            [CONFIGS / "scale-out" / name for name in ("agent.yaml", "kafka-out.yaml")],
            self.ports["agent"],
            state or self.folder / "agent",
            {"KAFKA_BROKER": self.broker},
        )
        self.programs["agent"] = Program([*wrapper, *program.command], program.environment, program.ready)

    def group_state(self) -> list[Assignment]:
        """The offsets of the gateways' consumer group by partition."""
        lines = self.kafka_tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", GROUP).splitlines()
        header = next(line.split() for line in lines if line.startswith("GROUP"))
        rows = [dict(zip(header, line.split(), strict=False)) for line in lines if line.startswith(GROUP)]
        return [
            Assignment(
                topic=row["TOPIC"],
                partition=int(row["PARTITION"]),
                committed=0 if row["CURRENT-OFFSET"] == "-" else int(row["CURRENT-OFFSET"]),
                end=int(row["LOG-END-OFFSET"]),
                member=row["CONSUMER-ID"],
            )
            for row in rows
        ]
