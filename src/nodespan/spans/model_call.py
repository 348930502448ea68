"""The metrics that every model call has, whoever made it: a Runner, a LangChain model, llama-cpp-python itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context

from nodespan import semconv

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from nodespan.spans.instruments import Instruments


def record_model_call(
    instruments: Instruments,
    span: Span,
    *,
    operation: str,
    provider: str | None,
    model: str | None,
    duration_s: float,
    time_to_first_chunk_s: float | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    finish_reason: str | None = None,
    error_type: str | None = None,
) -> None:
    """Records duration, usage and time to first chunk of one model call. Never raises.

    To be called once, when the call ends, with the facts that its span has. What is ``None`` is not recorded.

    Args:
        instruments: From ``get_instruments(meter_provider)``.
        span: The call's span, to which exemplars lead. It may have ended, and need not be recording.
        operation: ``semconv.CHAT`` or its like.
        provider: As in ``gen_ai.provider.name``.
        model: As in ``gen_ai.request.model``.
        duration_s: From the request to its end.
        time_to_first_chunk_s: From the request to the first chunk; only where the answer was streamed.
        input_tokens: Prompt tokens, cached ones included.
        output_tokens: Generated tokens.
        finish_reason: ``stop``, ``length``, ``cancelled``, ``error`` or a provider's own word.
        error_type: Class of the error it ended with.
    """
    if not instruments.are_live:
        return
    context = exemplar_context(span)
    call = {semconv.OPERATION_NAME: operation, semconv.PROVIDER_NAME: provider, semconv.REQUEST_MODEL: model}
    ended = {**call, semconv.FINISH_REASON: finish_reason, semconv.ERROR_TYPE: error_type}
    instruments.record(semconv.OPERATION_DURATION, duration_s, ended, context)
    if time_to_first_chunk_s is not None:
        instruments.record(semconv.TIME_TO_FIRST_CHUNK, time_to_first_chunk_s, call, context)
    for token_type, tokens in (("input", input_tokens), ("output", output_tokens)):
        if tokens is not None:
            used = {**call, semconv.TOKEN_TYPE: token_type}
            instruments.record(semconv.TOKEN_USAGE, tokens, used, context)


def exemplar_context(span: Span) -> Context:
    """A context in which an exemplar finds this span, and nothing else."""
    return trace.set_span_in_context(span, Context())
