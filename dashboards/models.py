"""The board of models and their generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashboards.panels import (
    BYTES,
    COUNT,
    SECONDS,
    SHARE,
    TOKENS_PER_S,
    Panel,
    bad_above,
    board,
    board_link,
    graph,
    number,
    query,
    traces,
    value_of,
)
from dashboards.queries import RANGE, counted, legend, quantile, ratio, series, share, total
from nodespan.semconv import (
    CACHED_TOKENS,
    CHAT,
    CONTEXT_UTILIZATION,
    DECODE_DURATION,
    DECODE_TOKENS,
    EVICTIONS,
    FINISH_REASON,
    LOAD_DURATION,
    LOADED,
    MODEL_SIZE,
    OPERATION_DURATION,
    OPERATION_NAME,
    PREFILL_DURATION,
    PREFILL_TOKENS,
    PRIORITY,
    QUEUE_DURATION,
    QUEUE_LENGTH,
    REQUEST_MODEL,
    STATE_SIZE,
    TIME_TO_FIRST_CHUNK,
    TIME_TO_FIRST_TOKEN,
    TOKEN_TYPE,
    TOKEN_USAGE,
    TOKENS_IN_FLIGHT,
)
from nodespan.types import PipelinePriority

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

CALLS: Final = [
    traces("Calls of this model in Jaeger", {REQUEST_MODEL: value_of(REQUEST_MODEL)}),
    board_link("Only this model", "nodespan-models", model=value_of(REQUEST_MODEL)),
    board_link("Workflows at this time", "nodespan-workflows"),
]
SERVED: Final = [
    traces("Chats in Jaeger", {OPERATION_NAME: CHAT}),
    board_link("Workflows at this time", "nodespan-workflows"),
]
PRIORITIES: Final = ", ".join(f"{priority.value} {priority.name.lower()}" for priority in PipelinePriority)


def _numbers() -> list[Panel]:
    cached = counted(CACHED_TOKENS, window=RANGE)
    evaluated = counted(PREFILL_TOKENS, window=RANGE)
    return [
        number(
            "What part of the prompts came from the cache?",
            "Share of the prompt tokens in the time shown that were found in the KV cache and were not "
            "evaluated. It is large if successive prompts have the same beginning.",
            SHARE,
            query(share(cached, f"({cached} + {evaluated})")),
            links=SERVED,
        ),
        number(
            "How many tokens are in flight?",
            "Prompt and output tokens of the generations that are running at this time.",
            COUNT,
            query(total(series(TOKENS_IN_FLIGHT))),
            links=SERVED,
        ),
        number(
            "How much memory do the loaded models take?",
            "Reported by llama.cpp: the tensors, and the state of the contexts with their KV caches.",
            BYTES,
            query(total(series(MODEL_SIZE)), "tensors"),
            query(total(series(STATE_SIZE)), "state"),
            links=SERVED,
        ),
    ]


def _first_token(q: float) -> str:
    """The first token, or the first chunk of a model in another process."""
    return " or ".join(quantile(q, metric, by=[REQUEST_MODEL]) for metric in (TIME_TO_FIRST_TOKEN, TIME_TO_FIRST_CHUNK))


def _speeds() -> list[Panel]:
    def speed(tokens: str, duration: str) -> str:
        return ratio(counted(tokens, by=[REQUEST_MODEL]), counted(duration, "sum", by=[REQUEST_MODEL]))

    return [
        graph(
            "How long until the first token?",
            "From the request to its first token: queue, load and prefill together; to the first chunk where the model "
            "is in another process. Median, 95th and 99th percentile of the calls. Each point is one call and opens "
            "its trace.",
            SECONDS,
            *(query(_first_token(q), f"{legend(REQUEST_MODEL)} p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
            limits=bad_above(5, 20),
            links=CALLS,
            exemplars=True,
        ),
        graph(
            "How fast are prompts read?",
            "Prefill: evaluated tokens per second, by llama.cpp's counters. A ratio of "
            "sums, in which a long prompt weighs more than a short one. Cached tokens are not included.",
            TOKENS_PER_S,
            query(speed(PREFILL_TOKENS, PREFILL_DURATION), legend(REQUEST_MODEL)),
            links=CALLS,
        ),
        graph(
            "How fast are answers written?",
            "Decode: tokens after the first per second, by llama.cpp's counters. It falls when the "
            "context grows, the processor is shared or too hot, or memory is short.",
            TOKENS_PER_S,
            query(speed(DECODE_TOKENS, DECODE_DURATION), legend(REQUEST_MODEL)),
            links=CALLS,
        ),
    ]


def _tokens() -> list[Panel]:
    return [
        graph(
            "How many tokens go in, come from the cache, and go out?",
            "Tokens of the calls that ended in the window before each point. Input includes cached tokens.",
            COUNT,
            query(counted(TOKEN_USAGE, "sum", by=[REQUEST_MODEL, TOKEN_TYPE]), legend(REQUEST_MODEL, TOKEN_TYPE)),
            query(counted(CACHED_TOKENS, by=[REQUEST_MODEL]), f"{legend(REQUEST_MODEL)} cached"),
            links=CALLS,
            bars=True,
        ),
        graph(
            "How full does the context get?",
            "The part of the context that prompt and answer filled at the end of a call, 95th percentile. "
            "At 100 % llama.cpp rejects the prompt, or the answer ends with `length`.",
            SHARE,
            query(quantile(0.95, CONTEXT_UTILIZATION, by=[REQUEST_MODEL]), f"{legend(REQUEST_MODEL)} p95"),
            limits=bad_above(0.8, 0.95),
            links=CALLS,
        ),
        graph(
            "Why do answers end?",
            "Calls that ended in the window before each point: `stop` is the model's own end or a stop string, "
            "`length` the limit of tokens, `cancelled` the caller, `error` an exception.",
            COUNT,
            query(
                counted(OPERATION_DURATION, "count", by=[REQUEST_MODEL, FINISH_REASON]),
                legend(REQUEST_MODEL, FINISH_REASON),
            ),
            links=[
                traces(
                    "Such calls in Jaeger",
                    {REQUEST_MODEL: value_of(REQUEST_MODEL), FINISH_REASON: value_of(FINISH_REASON)},
                )
            ],
            bars=True,
        ),
    ]


def _pool() -> list[Panel]:
    by_priority = f"priority {legend(PRIORITY)}"
    waiting = f"Waiting requests are served by priority ({PRIORITIES}), then by arrival."
    return [
        graph(
            "How long do requests wait for the model?",
            f"A loaded model serves one request at a time. 95th percentile of the waiting time. {waiting} "
            "Each point is one call and opens its trace.",
            SECONDS,
            query(
                quantile(0.95, QUEUE_DURATION, by=[REQUEST_MODEL, PRIORITY]), f"{legend(REQUEST_MODEL)} {by_priority}"
            ),
            limits=bad_above(5, 30),
            links=CALLS,
            exemplars=True,
        ),
        graph(
            "How many requests wait?",
            f"When the metrics were read. {waiting} A queue that does not become empty requires another model or host.",
            COUNT,
            query(total(series(QUEUE_LENGTH), by=[REQUEST_MODEL, PRIORITY]), f"{legend(REQUEST_MODEL)} {by_priority}"),
            links=CALLS,
        ),
        graph(
            "Which models are loaded, and are they evicted again?",
            "Models in memory, and loads and evictions in the window before each point. Continuing loads mean "
            "that `max_loaded` is too small for the models in use.",
            COUNT,
            query(total(series(LOADED), by=[REQUEST_MODEL]), f"{legend(REQUEST_MODEL)} loaded now"),
            query(counted(LOAD_DURATION, "count", by=[REQUEST_MODEL]), f"{legend(REQUEST_MODEL)} loads"),
            query(counted(EVICTIONS, by=[REQUEST_MODEL]), f"{legend(REQUEST_MODEL)} evictions"),
            links=CALLS,
        ),
    ]


def models() -> Dashboard:
    """Latency first, then times and tokens, then the queue and the pool."""
    return board(
        "nodespan-models",
        "How fast are the local models, what do they process, and which requests wait?",
        ("service", "model"),
        [(4, _numbers()), (8, _speeds()), (8, _tokens()), (8, _pool())],
    )
