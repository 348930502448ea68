"""An engine's measurements of a generation as span attributes, child spans and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context

from nodespan import semconv
from nodespan.engine.contract import EnginePhase, GenerationResult
from nodespan.spans.attributes import to_attributes
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import exemplar_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from nodespan.spans.instruments import Labels
    from nodespan.spans.model_call import ModelCallSpan

_RECORDING: Final = Guard("record a generation")
_DESCRIBING: Final = Guard("describe a generation")

_STANDARD: Final = {
    "model_name": semconv.RESPONSE_MODEL,
    "input_tokens": semconv.USAGE_INPUT_TOKENS,
    "output_tokens": semconv.USAGE_OUTPUT_TOKENS,
    "cached_input_tokens": semconv.USAGE_CACHE_READ,
}
_MIRRORED: Final = {
    key: semconv.MIRROR_KEYS[key]
    for key in (
        "pipeline_type", "cache_status", "queue_s", "server_queue_s", "load_s", "time_to_first_token_s",
        "prompt_eval_s", "decode_s", "tokens_per_s", "tokens_estimated", "error_type",
    )
}  # fmt: skip
"""Measurements without a standard name; the others have standard names."""

_PHASE_METRICS: Final = {
    semconv.LLAMA_CPP_PREFILL: (semconv.PREFILL_DURATION, semconv.PREFILL_TOKENS),
    semconv.LLAMA_CPP_DECODE: (semconv.DECODE_DURATION, semconv.DECODE_TOKENS),
}
"""Metrics of a phase's seconds and tokens, by the phase's name."""


_SUMMED: Final = {
    "input_tokens": semconv.USAGE_INPUT_TOKENS,
    "output_tokens": semconv.USAGE_OUTPUT_TOKENS,
    "cached_input_tokens": semconv.USAGE_CACHE_READ,
    "prompt_eval_s": semconv.MIRROR_KEYS["prompt_eval_s"],
    "decode_s": semconv.MIRROR_KEYS["decode_s"],
}
_SPEED: Final = semconv.MIRROR_KEYS["tokens_per_s"]


class Phase(NamedTuple):
    """A measured phase of a generation; times are Unix time in ns."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


def total(results: Sequence[GenerationResult]) -> GenerationResult:
    """The runs of the engine in one call as one result."""
    if len(results) == 1:
        return results[0]
    whole = GenerationResult()
    for result in results:
        if whole.first_token_at is None:
            whole.first_token_at = result.first_token_at
        for name in ("input_tokens", "cached_input_tokens", "output_tokens", "prefill_s", "decode_s"):
            if (value := getattr(result, name)) is not None:
                setattr(whole, name, (getattr(whole, name) or 0) + value)
    return whole


def add_to_outer(scope: ModelCallSpan, facts: Mapping[str, Any], phases: Iterable[Phase]) -> None:
    """Adds a call of an engine to the model call of the library around it, which may make several: counts are sums."""
    measured = scope.measured
    if semconv.USAGE_INPUT_TOKENS in measured:
        sums = {key: facts[key] + measured.get(name, 0) for key, name in _SUMMED.items() if facts.get(key) is not None}
        if speed := facts.get("tokens_per_s"):
            decoded = measured.get(_SPEED, 0) * measured.get(_SUMMED["decode_s"], 0) + speed * facts["decode_s"]
            sums["tokens_per_s"] = decoded / sums["decode_s"]
        facts = {**sums, "model_name": facts.get("model_name")}
    describe(scope, facts, phases)


def describe(
    scope: ModelCallSpan,
    facts: Mapping[str, Any],
    phases: Iterable[Phase],
    *,
    priority: int | None = None,
    chunks: int | None = None,
    time_to_first_chunk_s: float | None = None,
) -> None:
    """Sets the attributes of a generation, by the keys of ``PipelineExecutionMetadata``, and creates the child spans.

    The span stays open.
    """
    with _DESCRIBING:
        finish_reason = facts.get("finish_reason")
        scope.measured.update(
            {
                **{name: facts[key] for key, name in (_STANDARD | _MIRRORED).items() if facts.get(key) is not None},
                **({} if finish_reason is None else {semconv.RESPONSE_FINISH_REASONS: [finish_reason]}),
                semconv.RESPONSE_TIME_TO_FIRST_CHUNK: time_to_first_chunk_s,
                semconv.PRIORITY: priority,
                semconv.CHUNKS: chunks,
            }
        )
        if not scope.span.is_recording():
            return
        below = trace.set_span_in_context(scope.span, Context())
        for phase in phases:
            child = scope.tracer.start_span(
                phase.name, below, attributes=to_attributes(phase.attributes), start_time=phase.start_ns
            )
            child.end(phase.end_ns)


def engine_phases(result: GenerationResult, unix_ns: Callable[[float], int]) -> Iterator[Phase]:
    """The phases that the pipeline has measured, in Unix time.

    Args:
        result: Its measurements.
        unix_ns: Unix time in ns of a ``time.perf_counter()``.
    """
    for name, start_at, duration_s, tokens in result.phases:
        start_ns = unix_ns(start_at)
        yield Phase(name, start_ns, start_ns + round(duration_s * 1e9), {semconv.EVALUATED_TOKENS: tokens})


def llama_cpp_phases(result: GenerationResult) -> list[EnginePhase]:
    """Prefill and decode as measured by llama.cpp; phases that did not take place are left out."""
    phases: list[EnginePhase] = []
    if result.prefill_at is not None and result.prefill_s is not None:
        phases.append(
            EnginePhase(semconv.LLAMA_CPP_PREFILL, result.prefill_at, result.prefill_s, result.prefill_tokens)
        )
    if result.first_token_at is not None and result.decode_s:
        phases.append(
            EnginePhase(semconv.LLAMA_CPP_DECODE, result.first_token_at, result.decode_s, result.decode_tokens)
        )
    return phases


def record_generation(
    scope: ModelCallSpan,
    facts: Mapping[str, Any],
    results: Iterable[GenerationResult],
    *,
    duration_s: float,
    time_to_first_chunk_s: float | None,
    priority: int | None = None,
    in_process: bool = True,
) -> None:
    """Records the metrics of a generation. Unknown values are not recorded; loading is recorded where it ends.

    Args:
        scope: The generation's span, whose instruments are used.
        facts: By the keys of ``PipelineExecutionMetadata``.
        results: The runs of the engine in it.
        duration_s: From the request to the end.
        time_to_first_chunk_s: From the request to the first chunk; only for a streamed answer.
        priority: In the queue; ``None`` without a queue.
        in_process: The model runs in this process, so the metrics of a model server are recorded as well.
    """
    with _RECORDING:
        scope.record(
            duration_s=duration_s,
            time_to_first_chunk_s=time_to_first_chunk_s,
            input_tokens=facts.get("input_tokens"),
            output_tokens=facts.get("output_tokens"),
            finish_reason=facts.get("finish_reason"),
            error_type=facts.get("error_type"),
        )
        queue_s = facts.get("queue_s")
        if priority is not None and queue_s is not None:
            labels = {semconv.REQUEST_MODEL: scope.model, semconv.PRIORITY: priority}
            scope.instruments.record(semconv.QUEUE_DURATION, queue_s, labels, exemplar_context(scope.span))
    record_engine(scope, facts, results, in_process=in_process)


def record_engine(
    scope: ModelCallSpan, facts: Mapping[str, Any], results: Iterable[GenerationResult], *, in_process: bool = True
) -> None:
    """Records the engine's own measurements of a generation. Arguments as in ``record_generation``."""
    instruments = scope.instruments
    if not instruments.are_live:
        return
    with _RECORDING:
        of_model: Labels = {semconv.REQUEST_MODEL: scope.model}
        of_call: Labels = {semconv.OPERATION_NAME: scope.operation, semconv.PROVIDER_NAME: scope.provider, **of_model}
        context = exemplar_context(scope.span)
        for name, value in _of_server(facts) if in_process else ():
            if value is not None:
                instruments.record(name, value, of_call, context)
        for result in results:
            for name, value in _of_engine(result):
                if value is not None:
                    instruments.record(name, value, of_model, context)


def _of_server(facts: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """The metrics that the conventions define for a model server."""
    yield semconv.TIME_TO_FIRST_TOKEN, facts.get("time_to_first_token_s")
    if tokens_per_s := facts.get("tokens_per_s"):
        yield semconv.TIME_PER_OUTPUT_TOKEN, 1 / tokens_per_s


def is_of_llama_cpp(result: GenerationResult) -> bool:
    """Whether llama.cpp has measured it."""
    return any(phase.name in _PHASE_METRICS for phase in result.phases)


def _of_engine(result: GenerationResult) -> Iterator[tuple[str, float | None]]:
    """The metrics of llama.cpp's own clock and counters; none where another engine has measured.

    Tokens are recorded only together with their seconds, so that the ratio of the sums is the speed.
    """
    if not is_of_llama_cpp(result):
        return
    for phase in result.phases:
        if phase.tokens is not None and phase.name in _PHASE_METRICS:
            duration, tokens = _PHASE_METRICS[phase.name]
            yield duration, phase.duration_s
            yield tokens, phase.tokens
    yield semconv.CACHED_TOKENS, result.cached_input_tokens
    if result.context_size and result.input_tokens is not None and result.output_tokens is not None:
        yield semconv.CONTEXT_UTILIZATION, (result.input_tokens + result.output_tokens) / result.context_size
