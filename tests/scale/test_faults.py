"""Each part of the chain fails in turn under load: no span that was reported stored is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from scale_chain import GATEWAYS, PARTITIONS, TOPICS, Chain

from scale_load import DRAINED_S, HEADER, PROCESSES, STEP, Count, Programs
from stack_backends import Prometheus, eventually

AWAY_S = 3.0
BROKER_AWAY_S = 60.0
HUNG_S = 20.0
"""Twice the receiver's session timeout: by then the partitions are assigned to the other gateway."""
AGENT_DISK = "6m"
POISON = 30
NODES_PER_WORKFLOW = 8


@dataclass
class Stage:
    """The objects that a fault requires."""

    chain: Chain
    programs: Programs
    count: Count
    folder: Path
    afterwards: ExitStack
    """Callbacks that undo the fault when all spans have arrived."""

    def restart(self, *names: str, away_s: float = AWAY_S) -> None:
        """Kill programs of the chain and start them again after a while."""
        for name in names:
            self.chain.kill(name)
        time.sleep(away_s)
        for name in names:
            self.chain.start(name)


def no_fault(_: Stage) -> dict[str, object]:
    return {}


def killed(*names: str) -> Callable[[Stage], dict[str, object]]:
    def fault(stage: Stage) -> dict[str, object]:
        stage.restart(*names)
        return {}

    return fault


def broker_away(stage: Stage) -> dict[str, object]:
    stage.restart("kafka", away_s=BROKER_AWAY_S)
    return {"away_s": BROKER_AWAY_S}


def gateway_hung(stage: Stage) -> dict[str, object]:
    stage.chain.pause(GATEWAYS[0])
    try:
        time.sleep(HUNG_S)
        assigned = partitions_of_the_group(stage.chain)
    finally:
        stage.chain.resume(GATEWAYS[0])
    assert len(assigned) == PARTITIONS
    assert len(set(assigned.values())) == 1, f"the other gateway has not taken over: {assigned}"
    return {"hung_s": HUNG_S}


def partitions_of_the_group(chain: Chain) -> dict[int, str]:
    """The member of the consumer group that each partition of the spans is assigned to."""
    state = chain.group_state()
    return {row.partition: row.member for row in state if row.topic == TOPICS[0]}


def poison(stage: Stage) -> dict[str, object]:
    """Messages that are not OTLP, in all partitions."""
    lines = "".join(f"{number}:not OTLP {number}\n" for number in range(POISON)).encode()
    properties = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]
    stage.chain.kafka_tool("ConsoleProducer", "--topic", TOPICS[0], *properties, given=lines)

    def skipped() -> float:
        name = "otelcol_kafka_receiver_unmarshal_failed_spans_total"
        return sum(stage.count.counters.read(stage.chain.ports[gateway].metrics, name) for gateway in GATEWAYS)

    eventually(skipped, lambda seen: seen >= POISON, "poison messages that were skipped and counted")
    return {"skipped": POISON}


def agent_disk_full(stage: Stage) -> dict[str, object]:
    """The agent's disk is a small tmpfs, which fills while the broker is away; then the agent refuses."""
    chain, counters = stage.chain, stage.count.counters
    disk = stage.folder / "small-disk"
    disk.mkdir()
    stage.count.wait_until_agent_empty()
    chain.terminate("agent")
    mount = f'mount -t tmpfs -o size={AGENT_DISK} none "$0" && exec "$@"'
    chain.set_agent(disk, ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(disk)])
    chain.start("agent")
    chain.kill("kafka")
    refused = eventually(counters.refused_by_agent, lambda spans: spans > STEP, "spans refused by a full agent")
    chain.start("kafka")
    stage.afterwards.callback(usual_agent, stage)
    stage.count.progress(STEP, "spans after the disk was full")
    assert "no space left on device" in chain.log("agent")
    return {"refused": refused}


def usual_agent(stage: Stage) -> None:
    """The agent with its usual disk again; the small one is gone with the agent that mounted it."""
    stage.count.wait_until_agent_empty()
    stage.chain.terminate("agent")
    stage.chain.set_agent()
    stage.chain.start("agent")


FAULTS: dict[str, Callable[[Stage], dict[str, object]]] = {
    "none": no_fault,
    "agent killed": killed("agent"),
    "broker killed": killed("kafka"),
    "one gateway killed": killed(GATEWAYS[0]),
    "both gateways killed": killed(*GATEWAYS),
    "Jaeger killed": killed("jaeger"),
    "Prometheus killed": killed("prometheus"),
    "broker away for 60 s": broker_away,
    "one gateway hung (SIGSTOP)": gateway_hung,
    "messages that are not OTLP": poison,
    "agent, broker, gateways, Jaeger killed at once": killed("jaeger", "kafka", *GATEWAYS, "agent"),
    "disk of the agent full": agent_disk_full,
}


@pytest.fixture
def afterwards() -> Iterator[ExitStack]:
    with ExitStack() as callbacks:
        yield callbacks


@pytest.mark.parametrize("name", FAULTS, ids=lambda name: name.replace(" ", "-"))
def test_a_fault_under_load_loses_no_span_that_was_reported_stored(
    name: str, chain: Chain, programs: Programs, count: Count, tmp_path: Path, table: list[str], afterwards: ExitStack
) -> None:
    kills_jaeger = "Jaeger" in name
    deliveries = count.counters.out_of_gateways if kills_jaeger else count.counters.into_jaeger
    started, before = time.monotonic(), deliveries()
    with programs.running(name.replace(" ", "-")) as sent:
        count.progress(STEP, "spans before the fault")
        remarks = FAULTS[name](Stage(chain, programs, count, tmp_path, afterwards))
        count.progress(STEP, "spans after the fault")
    count.wait_until_still()
    seen = count.wait_until_arrived(sent)

    total = None if "at once" in name else deliveries() - before  # no counter outlives that fault
    row = count.row(name, sent, seen, total, time.monotonic() - started, **remarks)
    table.extend([HEADER, str(row)] if name == "none" else [str(row)])
    assert (row.lost, row.invented) == (0, 0)
    assert row.sent == row.received > 2 * STEP
    assert [report["dropped"] for report in sent.reports] == [{}] * len(sent.reports)
    assert sum(report["exported"] for report in sent.reports) == sum(report["ended"] for report in sent.reports)
    if name == "none":
        assert row.duplicates == 0

    assert row.duplicates is None or row.duplicates >= 0

    executions = NODES_PER_WORKFLOW * programs.workflows
    prometheus = Prometheus(chain.prometheus)
    counted = 'sum(nodespan_node_duration_seconds_count{service_name="load"})'
    eventually(
        lambda: (prometheus.query(counted), count.counters.queues()),  # the queues show where metrics are held up
        lambda seen: bool(seen[0]) and seen[0][0][1] == executions,
        f"{executions} executions of nodes in Prometheus",
        DRAINED_S,
    )


def test_programs_that_are_killed_lose_no_span_that_was_reported_stored(
    chain: Chain, programs: Programs, count: Count, table: list[str]
) -> None:
    """The agent is away when all programs are killed; `nodespan flush` sends what their store holds."""
    started, before = time.monotonic(), count.counters.into_jaeger()
    with programs.running("programs-killed") as sent:
        count.progress(STEP, "spans before the fault")
        chain.kill("agent")
        time.sleep(AWAY_S)
        programs.kill(PROCESSES)
        chain.start("agent")
        programs.flush()
    count.wait_until_still()
    seen = count.wait_until_arrived(sent)
    total = count.counters.into_jaeger() - before
    row = count.row("all programs killed, then nodespan flush", sent, seen, None, time.monotonic() - started)
    table.append(f"{row}  of {total} that arrived")
    assert (row.lost, row.invented) == (0, 0)
    assert total >= row.sent > STEP
    programs.start()
