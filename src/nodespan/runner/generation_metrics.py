"""The metrics of one generation, from the same facts as its span."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.spans.guard import Guard
from nodespan.spans.model_call import exemplar_context, record_model_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from opentelemetry.trace import Span

    from nodespan.runner.pipeline import GenerationResult
    from nodespan.spans.instruments import Instruments, Labels
    from nodespan.spans.model_span import ModelCallOwner

_RECORDING: Final = Guard("record a generation")


def record_generation(
    instruments: Instruments,
    owner: ModelCallOwner,
    facts: Mapping[str, Any],
    results: Iterable[GenerationResult],
    *,
    duration_s: float,
    time_to_first_chunk_s: float | None,
    priority: int | None = None,
) -> None:
    """Records what a generation took. What was not measured is not recorded; loading is recorded where it ends.

    Args:
        instruments: From ``get_instruments(meter_provider)``.
        owner: Of the generation's span.
        facts: By the keys of ``PipelineExecutionMetadata``.
        results: The runs of the engine in it.
        duration_s: From the request to the end.
        time_to_first_chunk_s: From the request to the first chunk; only where the answer was streamed.
        priority: In the queue; ``None`` where there is none.
    """
    if not instruments.are_live:
        return
    with _RECORDING:
        record_model_call(
            instruments,
            owner.span,
            operation=owner.operation,
            provider=owner.provider or "",
            model=owner.model,
            duration_s=duration_s,
            time_to_first_chunk_s=time_to_first_chunk_s,
            input_tokens=facts.get("input_tokens"),
            output_tokens=facts.get("output_tokens"),
            finish_reason=facts.get("finish_reason"),
            error_type=facts.get("error_type"),
        )
        queue_s = facts.get("queue_s")
        if priority is not None and queue_s is not None:
            labels = {semconv.REQUEST_MODEL: owner.model, semconv.PRIORITY: priority}
            instruments.record(semconv.QUEUE_DURATION, queue_s, labels, exemplar_context(owner.span))
    record_engine(instruments, owner.span, owner.operation, owner.provider, owner.model, facts, results)


def record_engine(
    instruments: Instruments,
    span: Span,
    operation: str,
    provider: str | None,
    model: str | None,
    facts: Mapping[str, Any],
    results: Iterable[GenerationResult],
) -> None:
    """Records of a generation what only the engine knows, whoever records the call. Arguments as there."""
    if not instruments.are_live:
        return
    with _RECORDING:
        of_model: Labels = {semconv.REQUEST_MODEL: model}
        of_call: Labels = {semconv.OPERATION_NAME: operation, semconv.PROVIDER_NAME: provider, **of_model}
        context = exemplar_context(span)
        for name, value in _of_server(facts):
            if value is not None:
                instruments.record(name, value, of_call, context)
        for result in results:
            for name, value in _of_engine(result):
                if value is not None:
                    instruments.record(name, value, of_model, context)


def _of_server(facts: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """What the conventions ask of whoever serves a model."""
    yield semconv.TIME_TO_FIRST_TOKEN, facts.get("time_to_first_token_s")
    if tokens_per_s := facts.get("tokens_per_s"):
        yield semconv.TIME_PER_OUTPUT_TOKEN, 1 / tokens_per_s


def _of_engine(result: GenerationResult) -> Iterator[tuple[str, float | None]]:
    """What an engine such as llama.cpp measures by its own clock and counters.

    Tokens and their seconds come together or not at all, so that the ratio of their sums is the speed.
    """
    if result.prefill_s is not None and result.prefill_tokens is not None:
        yield semconv.PREFILL_DURATION, result.prefill_s
        yield semconv.PREFILL_TOKENS, result.prefill_tokens
    if result.decode_s is not None and result.decode_tokens:  # a single token takes no decoding
        yield semconv.DECODE_DURATION, result.decode_s
        yield semconv.DECODE_TOKENS, result.decode_tokens
    yield semconv.CACHED_TOKENS, result.cached_input_tokens
    if result.context_size and result.input_tokens is not None and result.output_tokens is not None:
        yield semconv.CONTEXT_UTILIZATION, (result.input_tokens + result.output_tokens) / result.context_size
