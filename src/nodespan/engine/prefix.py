"""Comparison of a prompt with the model's context: the shared prefix, and the previous call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Link

from nodespan import semconv
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import exemplar_context

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from nodespan.engine.contract import GenerationResult
    from nodespan.spans.model_call import ModelCallSpan

PREVIOUS_PROMPT: Final = "previous_prompt"
LEAST_REPEATED_TOKENS: Final = 16
"""Fewer differing tokens are usually the end of an answer, which a chat template writes differently."""

_DESCRIBING: Final = Guard("compare a prompt with the previous one")


@dataclass(slots=True)
class PromptCall:
    """A call whose tokens are in a model's context. Node and span are known when its span is described."""

    node: str | None = None
    span: SpanContext | None = None


@dataclass(slots=True)
class PrefixUse:
    """Comparison of a prompt with the tokens in the model's context.

    Attributes:
        shared_tokens: Length of their common beginning.
        held_tokens: Tokens in the context, which are prompt and answer of the previous call.
        previous: That call; ``None`` if the context was empty or its call is unknown.
        call: This call, for the next one.
    """

    shared_tokens: int
    held_tokens: int
    previous: PromptCall | None
    call: PromptCall = field(default_factory=PromptCall)


def describe_context(scope: ModelCallSpan, result: GenerationResult) -> None:
    """Sets the size of the model's context and the reuse of the prompt, before the span ends.

    A server reports the number of cached tokens only: then there is a metric and no previous node.
    """
    with _DESCRIBING:
        if result.context_size:
            scope.measured[semconv.CONTEXT_SIZE] = result.context_size
        node = scope.node
        use = result.prefix
        previous = use.previous if use is not None else None
        if use is not None:
            use.call.node, use.call.span = node, scope.span.get_span_context()
            if previous is not None:
                _compare(scope, result, use, previous)
        if result.input_tokens and result.cached_input_tokens is not None and scope.instruments.are_live:
            labels = {
                semconv.REQUEST_MODEL: scope.model,
                semconv.NODE: node,
                semconv.PREFIX_PREVIOUS_NODE: previous.node if previous is not None else None,
            }
            share = min(result.cached_input_tokens / result.input_tokens, 1.0)
            scope.instruments.record(semconv.PREFIX_REUSE, share, labels, exemplar_context(scope.span))


def _compare(scope: ModelCallSpan, result: GenerationResult, use: PrefixUse, previous: PromptCall) -> None:
    prompt = result.input_tokens or 0
    repeated = min(use.held_tokens, prompt) - use.shared_tokens
    scope.measured[semconv.PREFIX_SHARED] = use.shared_tokens
    scope.measured[semconv.PREFIX_REPEATED] = repeated
    if previous.node is not None:
        scope.measured[semconv.PREFIX_PREVIOUS_NODE] = previous.node
    if repeated < LEAST_REPEATED_TOKENS:
        return
    if result.prefill_s is not None and result.prefill_tokens:
        share = min((prompt - use.shared_tokens) / result.prefill_tokens, 1.0)
        scope.measured[semconv.PREFIX_COST] = result.prefill_s * share
    if previous.span is not None and previous.span.is_valid:
        scope.link(Link(previous.span, {semconv.LINK_KIND: PREVIOUS_PROMPT}))
