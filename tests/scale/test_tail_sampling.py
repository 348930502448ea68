"""Tail sampling on two gateways, between which Kafka divides the traces by their ids: whole traces or none.

It keeps traces in memory, so a fault loses some; they are counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from scale_chain import GATEWAYS, Chain
from stack_programs import CONFIGS

from scale_load import STEP, Count, Programs, Sent
from stack_backends import Prometheus, eventually

PERCENT = 50
FAIL_EVERY = 5
SERVICE = "sampled"
PROGRAMS = 4
PAUSE_S = 0.1
DECIDED_S = 8.0
"""Longer than ``decision_wait_after_root_received`` and the batching of the whole chain."""
HEADER = (
    f"{'tail sampling':<36} {'traces':>7} {'failed':>7} {'kept whole':>11} {'kept in part':>13} {'failed not kept':>16}"
)


@dataclass(frozen=True)
class Kept:
    """Outcome of the traces of a phase."""

    name: str
    traces: int
    failed: int
    whole: int
    part: int
    failed_not_kept: int

    def __str__(self) -> str:
        return (
            f"{self.name:<36} {self.traces:>7} {self.failed:>7} {self.whole:>11} {self.part:>13} "
            f"{self.failed_not_kept:>16}"
        )


@pytest.fixture(scope="module")
def sampling(chain: Chain, count: Count) -> Iterator[None]:
    """Tail sampling on both gateways."""
    count.wait_until_still()
    overlay = CONFIGS / "overlays" / "tail-sampling.yaml"
    for name in GATEWAYS:
        chain.terminate(name)
        chain.set_gateway(name, [overlay], TRACE_SAMPLE_PERCENT=str(PERCENT))
    for name in GATEWAYS:
        chain.start(name)
    yield
    for name in GATEWAYS:
        chain.terminate(name)
        chain.set_gateway(name, [])
    for name in GATEWAYS:
        chain.start(name)


@pytest.fixture(scope="module")
def sampled(chain: Chain, sampling: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    programs = Programs(chain.endpoint, tmp_path_factory.mktemp("sampled"), PROGRAMS, SERVICE)
    try:
        programs.start()
        yield programs
    finally:
        programs.stop()


def kept(name: str, count: Count, sent: Sent) -> Kept:
    outcome: Counter[str] = Counter()
    for trace_id, ids in sent.spans.items():
        seen = count.seen(trace_id)
        assert seen <= ids
        outcome["whole" if seen == ids else "part" if seen else "none"] += 1
        outcome["failed not kept"] += trace_id in sent.failed and seen != ids
    return Kept(name, len(sent.spans), len(sent.failed), outcome["whole"], outcome["part"], outcome["failed not kept"])


def phase(count: Count, programs: Programs, name: str, fault: Callable[[], None] = lambda: None) -> tuple[Sent, Kept]:
    with programs.running(name.replace(" ", "-"), PAUSE_S, FAIL_EVERY) as sent:
        count.progress(STEP, "sampled spans before the fault")
        fault()
        count.progress(STEP, "sampled spans after the fault")
    time.sleep(DECIDED_S)
    count.wait_until_still()
    return sent, kept(name, count, sent)


def is_whole(outcome: Kept) -> None:
    assert (outcome.part, outcome.failed_not_kept) == (0, 0)
    of_ok = (outcome.whole - outcome.failed) / (outcome.traces - outcome.failed)
    assert outcome.failed > 0
    assert 0.25 < of_ok < 0.75


def test_traces_are_kept_whole_or_not_at_all_and_metrics_count_all_of_them(
    chain: Chain, count: Count, sampled: Programs, table: list[str]
) -> None:
    sent, outcome = phase(count, sampled, "no fault")
    table.extend([HEADER, str(outcome)])
    is_whole(outcome)
    prometheus = Prometheus(chain.prometheus)
    eventually(
        lambda: prometheus.query(f'sum(traces_span_metrics_calls_total{{service_name="{SERVICE}"}})'),
        lambda seen: bool(seen) and seen[0][1] == sent.count,
        f"all {sent.count} spans in the span metrics",
    )


@pytest.mark.parametrize("name", ["a gateway killed", "a gateway stopped and started"])
def test_losses_of_a_fault_are_counted_and_later_traces_are_complete(
    name: str, chain: Chain, count: Count, sampled: Programs, table: list[str]
) -> None:
    def fault() -> None:
        (chain.kill if "killed" in name else chain.terminate)(GATEWAYS[0])
        count.progress(STEP, "sampled spans through the other gateway")
        chain.start(GATEWAYS[0])

    _, with_fault = phase(count, sampled, name, fault)
    _, after = phase(count, sampled, f"after {name}")
    table.extend([str(with_fault), str(after)])
    assert with_fault.traces > with_fault.whole > 0
    is_whole(after)
