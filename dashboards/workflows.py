"""The board of runs and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashboards.panels import (
    COUNT,
    SECONDS,
    SHARE,
    DataLink,
    Panel,
    bad_above,
    board,
    board_link,
    graph,
    number,
    query,
    ranking,
    spread,
    traces,
    value_of,
)
from dashboards.queries import (
    RANGE,
    buckets,
    counted,
    greatest,
    legend,
    none_of,
    quantile,
    ratio,
    series,
    share,
    total,
    where,
)
from nodespan.semconv import (
    ERROR_TYPE,
    EXECUTE_TOOL,
    INVOKE_NODE,
    INVOKE_WORKFLOW,
    NODE,
    NODE_DURATION,
    NODE_RETRIES,
    NODE_RUNNING,
    NODE_RUNNING_AGE,
    OPERATION_NAME,
    PHASE,
    STATUS,
    TOOL_DURATION,
    TOOL_NAME,
    WORKFLOW_ACTIVE,
    WORKFLOW_DURATION,
    WORKFLOW_INTERRUPTS,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

FAILED: Final = where(STATUS, "error")
RUNS: Final = counted(WORKFLOW_DURATION, "count", window=RANGE)
TRACES: Final = traces("Runs in Jaeger", {OPERATION_NAME: INVOKE_WORKFLOW})
FAILED_TRACES: Final = traces("Failed runs in Jaeger", {OPERATION_NAME: INVOKE_WORKFLOW, STATUS: "error"})
INTERRUPTED_TRACES: Final = traces("These runs in Jaeger", {OPERATION_NAME: INVOKE_WORKFLOW, STATUS: "interrupted"})


def _numbers() -> list[Panel]:
    failed = counted(WORKFLOW_DURATION, "count", FAILED, window=RANGE)
    interrupts = counted(WORKFLOW_INTERRUPTS, window=RANGE)
    return [
        number(
            "How many runs ended?",
            "Runs of compiled graphs that ended in the time shown, with any outcome; subgraphs count separately.",
            COUNT,
            query(RUNS),
            links=[TRACES],
        ),
        number(
            "What part of the runs failed?",
            "Share of the runs in the time shown that ended with an exception. An interrupt, a cancelled run and "
            "an error followed by a successful retry or handler are not failures.",
            SHARE,
            query(share(failed, RUNS)),
            limits=bad_above(0.01, 0.05),
            links=[FAILED_TRACES],
        ),
        number(
            "How many runs are under way?",
            "Runs that have started and not ended. If this stays above 0 while no run ends, a workflow hangs.",
            COUNT,
            query(total(series(WORKFLOW_ACTIVE))),
            links=[board_link("Which model they wait for", "nodespan-models")],
        ),
        number(
            "How many runs stopped to ask a human?",
            "Runs that stopped at an interrupt in the time shown. Their resumption is another run, linked to this one.",
            COUNT,
            query(none_of(interrupts, RUNS)),
            links=[INTERRUPTED_TRACES],
        ),
    ]


def _runs() -> list[Panel]:
    return [
        graph(
            "How long do runs take?",
            "Median, 95th and 99th percentile of the durations. Each point is one run and opens its trace.",
            SECONDS,
            *(query(quantile(q, WORKFLOW_DURATION), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
            links=[TRACES],
            exemplars=True,
        ),
        graph(
            "How do runs end, and with which error?",
            "Runs that ended in the window before each point, by status and by the class of the error.",
            COUNT,
            query(
                counted(WORKFLOW_DURATION, "count", by=[STATUS, ERROR_TYPE]),
                legend(STATUS, ERROR_TYPE),
            ),
            links=[traces("Such runs in Jaeger", {OPERATION_NAME: INVOKE_WORKFLOW, STATUS: value_of(STATUS)})],
            bars=True,
        ),
        graph(
            "Which tools are slow?",
            "95th percentile of the durations of a tool's calls. Each point is one call and opens its trace.",
            SECONDS,
            query(quantile(0.95, TOOL_DURATION, by=[TOOL_NAME]), legend(TOOL_NAME)),
            links=[traces("Its calls in Jaeger", {OPERATION_NAME: EXECUTE_TOOL, TOOL_NAME: value_of(TOOL_NAME)})],
            exemplars=True,
        ),
    ]


def _node_links(node: str) -> list[DataLink]:
    return [
        traces("This node in Jaeger", {OPERATION_NAME: INVOKE_NODE, NODE: node}),
        board_link("Only this node", "nodespan-workflows", node=node),
        board_link("Models at this time", "nodespan-models"),
    ]


def _nodes() -> list[Panel]:
    executions = counted(NODE_DURATION, "count", by=[NODE])
    failures = counted(NODE_DURATION, "count", FAILED, by=[NODE])
    retries = counted(NODE_RETRIES, by=[NODE, ERROR_TYPE])
    links = _node_links(value_of(NODE))
    return [
        graph(
            "Which nodes run now, and for how long?",
            "How long the oldest open execution of each node has been in its phase. A queued execution is not stuck; "
            "loading, prefilling or decoding for ten minutes is: then the alert NodeStuck fires.",
            SECONDS,
            query(greatest(series(NODE_RUNNING_AGE), [NODE, PHASE]), legend(NODE, PHASE)),
            links=links,
        ),
        graph(
            "Which nodes fail?",
            "The part of a node's executions that ended with an error, in the window before each point.",
            SHARE,
            query(share(failures, executions), legend(NODE)),
            limits=bad_above(0.01, 0.05),
            links=links,
        ),
        graph(
            "Which nodes are retried, and after which error?",
            "Failed attempts that were followed by another, in the window before each point.",
            COUNT,
            query(retries, legend(NODE, ERROR_TYPE)),
            links=links,
            bars=True,
        ),
    ]


def _durations() -> list[Panel]:
    spent = counted(NODE_DURATION, "sum", by=[NODE], window=RANGE)
    executions = counted(NODE_DURATION, "count", by=[NODE], window=RANGE)
    slow = "95 %"
    return [
        spread(
            "How are the durations of nodes spread?",
            "Node executions by duration. Two bands are two kinds of work, or calls with and without loading a model. "
            "Each point is one execution and opens its trace.",
            SECONDS,
            query(buckets(NODE_DURATION), "{{le}}"),
            links=[traces("Nodes in Jaeger", {OPERATION_NAME: INVOKE_NODE})],
        ),
        ranking(
            "Which nodes are the slowest?",
            "Running now, and in the time shown: executions, their mean, 95th percentile and total time. "
            "Check large totals as well as slow nodes.",
            NODE,
            {
                "Running": (COUNT, query(total(series(NODE_RUNNING), [NODE]))),
                "Executions": (COUNT, query(executions)),
                "Mean": (SECONDS, query(ratio(spent, executions))),
                slow: (SECONDS, query(quantile(0.95, NODE_DURATION, by=[NODE], window=RANGE))),
                "Total": (SECONDS, query(spent)),
            },
            sort_by=slow,
            links=_node_links("${__data.fields.Name}"),
        ),
    ]


def workflows() -> Dashboard:
    """Runs first, then the nodes inside."""
    return board(
        "nodespan-workflows",
        "Do the workflows run, how long do they take, and which node is slow?",
        ("service", "workflow", "node"),
        [(4, _numbers()), (8, _runs()), (8, _nodes()), (10, _durations())],
    )
