"""The expected values of the boards' panels after the seeded run (tests/stack/seeded_run.py): one table.

The name of a panel's line consists of the values of its labels, in the order of the labels' names. The numbers come
from the output of the run and, for durations, from its spans in Jaeger. A range has known bounds only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nodespan import semconv
from nodespan.semconv import NAMES
from stack_backends import SeenSpan

N_CTX = 512  # of the seeded run's models
PATIENCE_S = 600.0
PHASES = ("queued", "loading", "prefilling", "decoding", "retrying", "tool", "other")
STACK = ("otel-collector", "jaeger", "prometheus")

Range = tuple[float, float]


class Seldom(NamedTuple):
    """The bounds of a line that is there only if an export came at the right moment."""

    low: float
    high: float


Expected = Mapping[str, float | Range | Seldom]


@dataclass(frozen=True)
class Run:
    """Known values of the seeded run.

    Attributes:
        printed: The output of the run.
        spans: All its spans, from Jaeger.
        model_bytes: Size of the model's file.
    """

    printed: dict[str, Any]
    spans: list[SeenSpan]
    model_bytes: int

    def durations(self, operation: str, by: str = "") -> dict[str, list[float]]:
        """Values of the spans of an operation, grouped by an attribute."""
        found: dict[str, list[float]] = {}
        for span in self.spans:
            if span.attributes.get(semconv.OPERATION_NAME) == operation:
                found.setdefault(str(span.attributes[by]) if by else "", []).append(span.duration_s)
        return found

    def models(self, key: str) -> dict[str, Any]:
        """A sum of each model's."""
        return {name: of_model[key] for name, of_model in self.printed["models"].items()}

    def generations(self, value: Callable[[dict[str, Any]], float], *by: str) -> dict[str, list[float]]:
        """A value of each generation, apart by facts of it."""
        found: dict[str, list[float]] = {}
        for one in self.printed["generations"]:
            found.setdefault(" ".join(str(one[key]) for key in by), []).append(value(one))
        return found

    def nodes(self, *statuses: str) -> dict[str, int]:
        """Executions of each node, of those with these statuses."""
        counted = Counter[str]()
        for one in self.printed["nodes"]:
            counted[one["node"]] += one["count"] if one["status"] in statuses or not statuses else 0
        return dict(counted)

    def runs(self, *statuses: str) -> int:
        """Runs that ended with one of these statuses."""
        return sum(one["status"] in statuses or not statuses for one in self.printed["runs"])


def quantile(values: list[float], q: float, metric: str) -> float:
    """The result of ``histogram_quantile`` for values in the buckets of a metric."""
    rank, low, below = q * len(values), 0.0, 0
    for bound in NAMES[metric].buckets:
        up_to = sum(value <= bound for value in values)
        if up_to >= rank:
            return low + (bound - low) * (rank - below) / (up_to - below)
        low, below = bound, up_to
    return low


def quantiles(values: dict[str, list[float]], q: float, metric: str) -> Expected:
    """The same for each line."""
    return {name: quantile(those, q, metric) for name, those in values.items()}


def _first_token(q: float) -> Callable[[Run], Expected]:
    return lambda run: quantiles(
        run.generations(lambda one: one["time_to_first_token_s"], "model_name"), q, semconv.TIME_TO_FIRST_TOKEN
    )


def _run_duration(q: float) -> Callable[[Run], Expected]:
    return lambda run: quantiles(run.durations(semconv.INVOKE_WORKFLOW), q, semconv.WORKFLOW_DURATION)


def _node_durations(run: Run) -> dict[str, list[float]]:
    return run.durations(semconv.INVOKE_NODE, semconv.NODE)


def _ends(run: Run) -> Expected:
    ends = Counter(one["status"] for one in run.printed["runs"])
    return {("ValueError error" if status == "error" else status): count for status, count in ends.items()}


def _spread(run: Run) -> Expected:
    values = run.durations(semconv.INVOKE_NODE)[""]
    bounds = [*NAMES[semconv.NODE_DURATION].buckets, float("inf")]
    return {f"{float(bound):g}".replace("inf", "+Inf"): sum(value <= bound for value in values) for bound in bounds}


def _tokens(run: Run) -> Expected:
    kinds = {"input": "input_tokens", "output": "output_tokens"}
    return {f"{model} {kind}": count for kind, key in kinds.items() for model, count in run.models(key).items()}


def _prefill_speed(run: Run) -> Expected:
    evaluated = {
        model: count - run.models("cached_input_tokens")[model] for model, count in run.models("input_tokens").items()
    }
    return {model: count / run.models("prompt_eval_s")[model] for model, count in evaluated.items()}


def _decode_speed(run: Run) -> Expected:
    """The prefill of a call produces its first token."""
    decoded = {model: count - run.models("calls")[model] for model, count in run.models("output_tokens").items()}
    return {model: count / run.models("decode_s")[model] for model, count in decoded.items()}


def _waiting(run: Run) -> Expected:
    """One of each of two priorities waits for the first model; requests that do not wait are sampled rarely."""
    seen = run.printed["queue_seen"]
    return {
        f"{model} {priority}": seen[priority] if model == "small" and priority in seen else (0, 1)
        for model, priorities in run.models("by_priority").items()
        for priority in priorities
    }


def _in_flight(run: Run) -> Expected:
    return {"": (1, max(run.generations(lambda one: one["input_tokens"] + one["output_tokens"])[""]))}


def _running_nodes(run: Run) -> Expected:
    """`tell` keeps the model busy for seconds, while `urgent` and `background` wait for it."""
    return {**dict.fromkeys(run.nodes(), Seldom(0, 1)), **dict.fromkeys(("tell", "urgent", "background"), 1)}


def _running_ages(run: Run) -> Expected:
    ages = {f"{node} {phase}": Seldom(0, PATIENCE_S) for node in run.nodes() for phase in PHASES}
    seen = {f"{node} queued": (0.01, PATIENCE_S) for node in ("urgent", "background")}
    return {**ages, **seen, "tell decoding": (0.01, PATIENCE_S)}


AT_THE_END: dict[tuple[str, str], Callable[[Run], Expected]] = {
    ("How many runs ended?", "A"): lambda run: {"": run.runs()},
    ("What part of the runs failed?", "A"): lambda run: {"": run.runs("error") / run.runs()},
    ("How many runs stopped to ask a human?", "A"): lambda run: {"": run.runs("interrupted")},
    ("How long do runs take?", "A"): _run_duration(0.5),
    ("How long do runs take?", "B"): _run_duration(0.95),
    ("How long do runs take?", "C"): _run_duration(0.99),
    ("How do runs end, and with which error?", "A"): _ends,
    ("Which tools are slow?", "A"): lambda run: quantiles(
        run.durations(semconv.EXECUTE_TOOL, semconv.TOOL_NAME), 0.95, semconv.TOOL_DURATION
    ),
    ("Which nodes fail?", "A"): lambda run: {
        node: count / run.nodes()[node] for node, count in run.nodes("error").items()
    },
    ("Which nodes are retried, and after which error?", "A"): lambda run: {
        f"ConnectionError {one['node']}": one["count"] for one in run.printed["retries"]
    },
    ("How are the durations of nodes spread?", "A"): _spread,
    ("Which nodes are the slowest?", "B"): lambda run: run.nodes(),
    ("Which nodes are the slowest?", "C"): lambda run: {
        node: sum(values) / len(values) for node, values in _node_durations(run).items()
    },
    ("Which nodes are the slowest?", "D"): lambda run: quantiles(_node_durations(run), 0.95, semconv.NODE_DURATION),
    ("Which nodes are the slowest?", "E"): lambda run: {
        node: sum(values) for node, values in _node_durations(run).items()
    },
    ("What part of the prompts came from the cache?", "A"): lambda run: {
        "": sum(run.models("cached_input_tokens").values()) / sum(run.models("input_tokens").values())
    },
    ("How long until the first token?", "A"): _first_token(0.5),
    ("How long until the first token?", "B"): _first_token(0.95),
    ("How long until the first token?", "C"): _first_token(0.99),
    ("How fast are prompts read?", "A"): _prefill_speed,
    ("How fast are answers written?", "A"): _decode_speed,
    ("How many tokens go in, come from the cache, and go out?", "A"): _tokens,
    ("How many tokens go in, come from the cache, and go out?", "B"): lambda run: run.models("cached_input_tokens"),
    ("How full does the context get?", "A"): lambda run: quantiles(
        run.generations(lambda one: (one["input_tokens"] + one["output_tokens"]) / N_CTX, "model_name"),
        0.95,
        semconv.CONTEXT_UTILIZATION,
    ),
    ("Why do answers end?", "A"): lambda run: {
        f"{model} {reason}": count
        for model, reasons in run.models("finish_reasons").items()
        for reason, count in reasons.items()
    },
    ("How long do requests wait for the model?", "A"): lambda run: quantiles(
        run.generations(lambda one: one["queue_s"], "model_name", "priority"), 0.95, semconv.QUEUE_DURATION
    ),
    ("Which models are loaded, and are they evicted again?", "B"): lambda run: run.models("loads"),
    # The second model took the place of the first.
    ("Which models are loaded, and are they evicted again?", "C"): lambda run: {"small": run.printed["evictions"]},
    ("Are Collector, Jaeger and Prometheus up?", "A"): lambda _: dict.fromkeys(STACK, 1),
    ("How many spans wait to be sent?", "A"): lambda run: {"": run.printed["delivery"]["waiting"]},
    ("For how long has the oldest waited?", "A"): lambda _: {"": 0},
    ("Has a metric too many label values?", "A"): lambda _: {"": 0},
    ("Are the spans exported from the program?", "A"): lambda run: {"": run.printed["delivery"]["ended"]},
    ("Are the spans exported from the program?", "B"): lambda run: {"": run.printed["delivery"]["exported"]},
    ("Which spans were dropped, and why?", "A"): lambda _: {"": 0},
    ("Which spans were dropped, and why?", "B"): lambda _: {"": 0},
    ("Which spans were dropped, and why?", "C"): lambda _: {},  # a line per reason, and there was none
    ("Does nodespan have internal errors?", "A"): lambda _: {"": 0},
    ("Does nodespan have internal errors?", "B"): lambda _: {},
}
"""Counted over the run, and read when it has ended."""

AT_THEIR_HIGHEST: dict[tuple[str, str], Callable[[Run], Expected]] = {
    # `story` keeps the model busy while `chat` waits for it.
    ("How many runs are under way?", "A"): lambda _: {"": 2},
    ("Which nodes run now, and for how long?", "A"): _running_ages,
    ("Which nodes are the slowest?", "A"): _running_nodes,
    ("How many tokens are in flight?", "A"): _in_flight,
    ("How much memory do the loaded models take?", "A"): lambda run: {"": (run.model_bytes * 0.9, run.model_bytes)},
    ("How much memory do the loaded models take?", "B"): lambda run: {"": (1, run.model_bytes)},
    ("How many requests wait?", "A"): _waiting,
    ("Which models are loaded, and are they evicted again?", "A"): lambda run: dict.fromkeys(run.models("loads"), 1),
}
"""Current values: the maximum during the run."""

OF_THE_COLLECTOR: dict[tuple[str, str], Expected] = {
    ("Does the Collector forward the received spans?", "A"): {"": 1},
    ("Does the Collector forward the received spans?", "B"): {"": 1},
    ("How full are the Collector's queues?", "A"): {
        "metrics otlp_http/prometheus": (0, 0.05),
        "traces otlp_grpc/jaeger": (0, 0.05),
    },
    ("Does the Collector refuse or lose spans?", "A"): {"": 0},
    ("Does the Collector refuse or lose spans?", "B"): {"": 0},
    ("Does the Collector refuse or lose spans?", "C"): {"": 0},
}
"""After a burst of spans has gone through; rates as parts of the burst."""
