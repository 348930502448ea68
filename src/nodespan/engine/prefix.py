"""Why a prompt was evaluated again: what of it the model's context held, and of whose call."""

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
    from nodespan.spans.scope import SpanScope

PREVIOUS_PROMPT: Final = "previous_prompt"
LEAST_REPEATED_TOKENS: Final = 16
"""Fewer tokens that differ are the end of an answer, which a chat template writes in another way."""

_DESCRIBING: Final = Guard("compare a prompt with the one before")


@dataclass(slots=True)
class PromptCall:
    """A call whose tokens are in a model's context. Node and span are known when its span is described."""

    node: str | None = None
    span: SpanContext | None = None


@dataclass(slots=True)
class PrefixUse:
    """A prompt against the tokens in the model's context at its beginning.

    Attributes:
        shared_tokens: Length of their common beginning.
        held_tokens: Tokens in the context, prompt and answer of the call before.
        previous: That call; ``None`` where the context was empty, or is not known to be of a call.
        call: This call, for the next one.
    """

    shared_tokens: int
    held_tokens: int
    previous: PromptCall | None
    call: PromptCall = field(default_factory=PromptCall)


def describe_context(owner: ModelCallSpan, result: GenerationResult) -> None:
    """Sets the size of the model's context and what is known of the reuse of a prompt, before the span ends.

    A server reports the number of cached tokens alone: then there is a metric and no previous node.
    """
    with _DESCRIBING:
        if result.context_size:
            owner.measured[semconv.CONTEXT_SIZE] = result.context_size
        node = _node_around(owner)
        use = result.prefix
        previous = use.previous if use is not None else None
        if use is not None:
            use.call.node, use.call.span = node, owner.span.get_span_context()
            if previous is not None:
                _compare(owner, result, use, previous)
        if result.input_tokens and result.cached_input_tokens is not None and owner.instruments.are_live:
            labels = {
                semconv.REQUEST_MODEL: owner.model,
                semconv.NODE: node,
                semconv.PREFIX_PREVIOUS_NODE: previous.node if previous is not None else None,
            }
            share = min(result.cached_input_tokens / result.input_tokens, 1.0)
            owner.instruments.record(semconv.PREFIX_REUSE, share, labels, exemplar_context(owner.span))


def _compare(owner: ModelCallSpan, result: GenerationResult, use: PrefixUse, previous: PromptCall) -> None:
    prompt = result.input_tokens or 0
    repeated = min(use.held_tokens, prompt) - use.shared_tokens
    owner.measured[semconv.PREFIX_SHARED] = use.shared_tokens
    owner.measured[semconv.PREFIX_REPEATED] = repeated
    if previous.node is not None:
        owner.measured[semconv.PREFIX_PREVIOUS_NODE] = previous.node
    if repeated < LEAST_REPEATED_TOKENS:
        return
    if result.prefill_s is not None and result.prefill_tokens:
        share = min((prompt - use.shared_tokens) / result.prefill_tokens, 1.0)
        owner.measured[semconv.PREFIX_COST] = result.prefill_s * share
    if previous.span is not None and previous.span.is_valid:
        owner.link(Link(previous.span, {semconv.LINK_KIND: PREVIOUS_PROMPT}))


def _node_around(owner: ModelCallSpan) -> str | None:
    """LangGraph's name of the node around a model call."""
    scope: SpanScope | None = owner.parent
    while scope is not None:
        attributes = getattr(scope.span, "attributes", None)
        if attributes and isinstance(node := attributes.get(semconv.NODE), str):
            return node
        scope = scope.parent
    return None
