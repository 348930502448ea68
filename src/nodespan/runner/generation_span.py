"""The span of one generation, ``chat {model}`` or ``text_completion {model}``, and its children from measured times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context

from nodespan import semconv
from nodespan.spans.content import message, text_part
from nodespan.spans.guard import Guard
from nodespan.spans.model_span import ModelCallOwner
from nodespan.spans.values import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.trace import Tracer

    from nodespan.runner.pipeline import GenerationResult
    from nodespan.spans.content import Message
    from nodespan.types import GenerationRequest, ModelProfile

_DESCRIBING: Final = Guard("describe a generation")

_SAMPLING: Final = {
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": semconv.REQUEST_TOP_K,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
}
_STANDARD: Final = {
    "model_name": semconv.RESPONSE_MODEL,
    "input_tokens": semconv.USAGE_INPUT_TOKENS,
    "output_tokens": semconv.USAGE_OUTPUT_TOKENS,
    "cached_input_tokens": semconv.USAGE_CACHE_READ,
}
_MIRRORED: Final = {
    key: semconv.MIRROR_KEYS[key]
    for key in (
        "pipeline_type", "cache_status", "queue_s", "load_s", "time_to_first_token_s", "prompt_eval_s", "decode_s",
        "tokens_per_s", "error_type",
    )
}  # fmt: skip
"""Facts of the generation that have no standard name; the others stand under theirs."""


class Phase(NamedTuple):
    """A stretch of a generation that was measured; times are Unix time in ns."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


class GenerationOwner(ModelCallOwner):
    """Owns the span of a generation that the Runner asks for, and that its pipeline measures."""

    __slots__ = ()

    def __init__(self, tracer: Tracer, request: GenerationRequest, profile: ModelProfile, start_time_ns: int) -> None:
        super().__init__(
            tracer, request.operation, profile.provider.lower(), profile.model_name, start_time_ns=start_time_ns
        )
        if self.span.is_recording():
            with _DESCRIBING:
                given = {
                    **profile.sampling.model_dump(exclude_defaults=True),
                    **request.sampling.model_dump(exclude_defaults=True),
                }
                self.set(request_attributes(given, streams=True))
        if self.content is not None:
            self.content.asked(_asked(request))


def _asked(request: GenerationRequest) -> list[Message]:
    if request.prompt is not None:
        return [message("user", [text_part(request.prompt)])]
    return [message(one.role, [text_part(one.content)]) for one in request.messages]


def request_attributes(given: Mapping[str, Any], *, streams: bool) -> dict[str, Any]:
    """The sampling in force, as far as somebody has set it; llama.cpp's own defaults are left out.

    Args:
        given: Arguments by llama-cpp-python's names.
        streams: The answer comes piece by piece.
    """
    attributes = {name: given.get(key) for key, name in _SAMPLING.items()}
    return {**attributes, semconv.REQUEST_STOP_SEQUENCES: given.get("stop"), semconv.REQUEST_STREAM: streams}


def describe(
    owner: ModelCallOwner,
    facts: Mapping[str, Any],
    phases: Iterable[Phase],
    *,
    priority: int | None = None,
    chunks: int | None = None,
    time_to_first_chunk_s: float | None = None,
) -> None:
    """Writes what a generation did, by the keys of ``PipelineExecutionMetadata``, and makes the children.

    The span stays open.
    """
    if not owner.span.is_recording():
        return
    with _DESCRIBING:
        finish_reason = facts.get("finish_reason")
        owner.measured.update(
            {
                **{name: facts[key] for key, name in (_STANDARD | _MIRRORED).items() if facts.get(key) is not None},
                **({} if finish_reason is None else {semconv.RESPONSE_FINISH_REASONS: [finish_reason]}),
                semconv.RESPONSE_TIME_TO_FIRST_CHUNK: time_to_first_chunk_s,
                semconv.PRIORITY: priority,
                semconv.CHUNKS: chunks,
            }
        )
        below = trace.set_span_in_context(owner.span, Context())
        for phase in phases:
            child = owner.tracer.start_span(
                phase.name, below, attributes=clean(phase.attributes), start_time=phase.start_ns
            )
            child.end(phase.end_ns)


def engine_phases(result: GenerationResult, unix_ns: Callable[[float], int]) -> Iterator[Phase]:
    """Prefill and decode, as far as they took place; each has the length that the engine's own clock measured.

    Args:
        result: What was measured.
        unix_ns: Unix time in ns of a ``time.perf_counter()``.
    """
    for name, start, length_s, tokens in (
        (semconv.LLAMA_CPP_PREFILL, result.prefill_at, result.prefill_s, result.prefill_tokens),
        (semconv.LLAMA_CPP_DECODE, result.first_token_at, result.decode_s or None, result.decode_tokens),
    ):
        if start is not None and length_s is not None:
            start_ns = unix_ns(start)
            yield Phase(name, start_ns, start_ns + round(length_s * 1e9), {semconv.EVALUATED_TOKENS: tokens})
