"""The two settings of the gateways' Kafka receiver: without them spans are lost, with them none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scale_chain import GATEWAYS, TOPICS, Chain

from scale_load import Count, Programs, Sent
from stack_backends import eventually

COMMITTED_S = 2.0
"""Twice the interval in which the receiver commits."""
WAITING_TRACES = 20
QUEUE_SIZE = 2
SMALL_QUEUE = {"exporters": {"otlp_grpc/jaeger": {"sending_queue": {"queue_size": QUEUE_SIZE, "batch": None}}}}
COMMIT_BEFORE = {"receivers": {"kafka": {"message_marking": {"after": False}}}}
REFUSE_WHEN_FULL = {"exporters": {"otlp_grpc/jaeger": {"sending_queue": {"block_on_overflow": False}}}}
NO_RETRY = {"receivers": {"kafka": {"error_backoff": {"enabled": False}}}}


def overlay(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


@pytest.fixture
def one_gateway(chain: Chain, count: Count) -> Iterator[str]:
    """Only the first gateway runs, and afterwards everything does with the committed configs."""
    first, second = GATEWAYS
    count.wait_until_still()
    chain.terminate(second)
    yield first
    for name in GATEWAYS:
        if chain.is_running(name):
            chain.terminate(name)
        chain.set_gateway(name, [])
        chain.start(name)
    if not chain.is_running("jaeger"):
        chain.start("jaeger")


def committed(chain: Chain) -> tuple[int, int]:
    """Messages of spans that the group has committed, and all there are."""
    rows = [row for row in chain.group_state() if row.topic == TOPICS[0]]
    return sum(row.committed for row in rows), sum(row.end for row in rows)


def lost_when_the_gateway_is_killed(
    chain: Chain, programs: Programs, count: Count, gateway: str, phase: str, overlays: list[Path]
) -> tuple[Sent, int]:
    """Jaeger is away and the gateway's queue full; then the gateway is killed. How many spans never arrive?"""
    chain.terminate(gateway)
    chain.set_gateway(gateway, overlays)
    chain.start(gateway)
    chain.terminate("jaeger")
    _, before = committed(chain)
    with programs.running(phase) as sent:
        eventually(lambda: committed(chain)[1], lambda end: end > before + WAITING_TRACES, "messages in Kafka", 120)
    eventually(count.counters.queued_for_jaeger, lambda size: size == QUEUE_SIZE, "a full queue of the gateway", 120)
    eventually(lambda: still(chain), bool, "the gateway stands still with a full queue", 120)
    chain.kill(gateway)
    chain.start("jaeger")
    chain.set_gateway(gateway, [])
    chain.start(gateway)
    whole = before + WAITING_TRACES  # a group that has never committed has no rows before a gateway joins it
    eventually(lambda: committed(chain), lambda place: place[0] == place[1] > whole, "all of Kafka is committed", 120)
    count.wait_until_gateways_empty()
    count.wait_until_still()
    return sent, sum(len(ids - count.seen(trace_id)) for trace_id, ids in sent.spans.items())


def still(chain: Chain) -> bool:
    before = committed(chain)
    time.sleep(COMMITTED_S)
    return committed(chain) == before


@pytest.mark.parametrize(
    ("name", "settings", "loses"),
    [
        ("as committed", [], False),
        ("message_marking.after: false", [COMMIT_BEFORE], True),
        ("after: false, a full queue refuses", [COMMIT_BEFORE, REFUSE_WHEN_FULL, NO_RETRY], True),
    ],
    ids=["as-committed", "commit-before", "commit-before-and-refuse"],
)
def test_a_gateway_loses_spans_only_when_it_commits_before_they_are_on_disk(
    chain: Chain, programs: Programs, count: Count, one_gateway: str, tmp_path: Path, table: list[str],
    name: str, settings: list[dict[str, Any]], loses: bool,
) -> None:  # fmt: skip
    contents = [SMALL_QUEUE, *settings]
    overlays = [overlay(tmp_path, f"{number}", content) for number, content in enumerate(contents)]
    phase = f"commit-{len(settings)}"
    sent, lost = lost_when_the_gateway_is_killed(chain, programs, count, one_gateway, phase, overlays)
    table.append(f"gateway killed with a full queue, {name:<36} sent {sent.count:>6}  lost {lost:>6}")
    assert all(not report["dropped"] and report["exported"] == report["ended"] for report in sent.reports)
    assert (lost > 0) == loses
