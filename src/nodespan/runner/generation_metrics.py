"""The metrics of one generation, from the same facts as its span."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.spans.guard import Guard
from nodespan.spans.model_call import exemplar_context, record_model_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from nodespan.runner.pipeline import GenerationResult
    from nodespan.spans.instruments import Instruments, Labels
    from nodespan.types import GenerationRequest, ModelProfile, PipelineExecutionMetadata

_RECORDING: Final = Guard("record a generation")


def record_generation(
    instruments: Instruments,
    span: Span,
    request: GenerationRequest,
    profile: ModelProfile,
    metadata: PipelineExecutionMetadata,
    result: GenerationResult,
    *,
    priority: int,
    duration_s: float,
    time_to_first_chunk_s: float | None,
) -> None:
    """Records what a generation took. What was not measured is not recorded; loading is recorded where it ends."""
    if not instruments.are_live:
        return
    with _RECORDING:
        provider, model = profile.provider.lower(), profile.model_name
        record_model_call(
            instruments,
            span,
            operation=request.operation,
            provider=provider,
            model=model,
            duration_s=duration_s,
            time_to_first_chunk_s=time_to_first_chunk_s,
            input_tokens=metadata.input_tokens,
            output_tokens=metadata.output_tokens,
            finish_reason=metadata.finish_reason,
            error_type=metadata.error_type,
        )
        of_model: Labels = {semconv.REQUEST_MODEL: model}
        of_call = {semconv.OPERATION_NAME: request.operation, semconv.PROVIDER_NAME: provider, **of_model}
        context, later = exemplar_context(span), metadata.finish_reason == "cancelled"
        for labels, values in (
            (of_call, _of_server(metadata)),
            ({**of_model, semconv.PRIORITY: priority}, [(semconv.QUEUE_DURATION, metadata.queue_s)]),
            (of_model, _of_engine(metadata, result)),
        ):
            for name, value in values:
                if value is not None:
                    instruments.record(name, value, labels, context, later=later)


def _of_server(metadata: PipelineExecutionMetadata) -> Iterator[tuple[str, float | None]]:
    """What the conventions ask of whoever serves a model."""
    yield semconv.TIME_TO_FIRST_TOKEN, metadata.time_to_first_token_s
    if metadata.tokens_per_s:
        yield semconv.TIME_PER_OUTPUT_TOKEN, 1 / metadata.tokens_per_s


def _of_engine(metadata: PipelineExecutionMetadata, result: GenerationResult) -> Iterator[tuple[str, float | None]]:
    """What an engine such as llama.cpp measures by its own clock and counters.

    Tokens and their seconds come together or not at all, so that the ratio of their sums is the speed.
    """
    if metadata.prompt_eval_s is not None and result.prefill_tokens is not None:
        yield semconv.PREFILL_DURATION, metadata.prompt_eval_s
        yield semconv.PREFILL_TOKENS, result.prefill_tokens
    if metadata.decode_s is not None and result.decode_tokens:  # a single token takes no decoding
        yield semconv.DECODE_DURATION, metadata.decode_s
        yield semconv.DECODE_TOKENS, result.decode_tokens
    yield semconv.CACHED_TOKENS, metadata.cached_input_tokens
    if result.context_size and metadata.input_tokens is not None and metadata.output_tokens is not None:
        yield semconv.CONTEXT_UTILIZATION, (metadata.input_tokens + metadata.output_tokens) / result.context_size
