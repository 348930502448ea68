"""The span of one generation, ``chat {model}`` or ``text_completion {model}``, and its children from measured times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context

from nodespan import semconv
from nodespan.spans.guard import Guard
from nodespan.spans.model_span import ModelCallOwner
from nodespan.spans.values import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.trace import Tracer

    from nodespan.types import GenerationRequest, ModelProfile, PipelineExecutionMetadata

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
_USAGE: Final = {
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
    """Owns the span of a generation."""

    __slots__ = ()

    def __init__(self, tracer: Tracer, request: GenerationRequest, profile: ModelProfile, start_time_ns: int) -> None:
        super().__init__(
            tracer, request.operation, profile.provider.lower(), profile.model_name, start_time_ns=start_time_ns
        )
        if self.span.is_recording():
            with _DESCRIBING:
                self.set(_request_attributes(request, profile))

    def describe(
        self,
        metadata: PipelineExecutionMetadata,
        phases: Iterable[Phase],
        *,
        priority: int,
        chunks: int,
        time_to_first_chunk_s: float | None,
    ) -> None:
        """Writes what the generation did, and makes the children. The span stays open."""
        if not self.span.is_recording():
            return
        with _DESCRIBING:
            names = {**_USAGE, **_MIRRORED}
            self.set(
                {
                    **{name: getattr(metadata, key) for key, name in names.items()},
                    semconv.RESPONSE_FINISH_REASONS: [metadata.finish_reason],
                    semconv.RESPONSE_TIME_TO_FIRST_CHUNK: time_to_first_chunk_s,
                    semconv.PRIORITY: priority,
                    semconv.CHUNKS: chunks,
                }
            )
            below = trace.set_span_in_context(self.span, Context())
            for phase in phases:
                child = self.tracer.start_span(
                    phase.name, below, attributes=clean(phase.attributes), start_time=phase.start_ns
                )
                child.end(phase.end_ns)


def _request_attributes(request: GenerationRequest, profile: ModelProfile) -> dict[str, Any]:
    """The sampling in force, as far as somebody has set it; llama.cpp's own defaults are left out."""
    given = {
        **profile.sampling.model_dump(exclude_defaults=True),
        **request.sampling.model_dump(exclude_defaults=True),
    }
    attributes = {name: given.get(key) for key, name in _SAMPLING.items()}
    return {**attributes, semconv.REQUEST_STOP_SEQUENCES: given.get("stop"), semconv.REQUEST_STREAM: True}
