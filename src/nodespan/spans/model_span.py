"""The span of a model call: exactly one, however many libraries the call goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind
from typing_extensions import override

from nodespan import semconv
from nodespan.spans.content import ModelContent
from nodespan.spans.exceptions import error_type
from nodespan.spans.scope import SpanScope, current_scope
from nodespan.spans.values import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from nodespan.spans.instruments import Instruments
    from nodespan.spans.scope import Outcome


def current_model_call(context: Context | None = None) -> ModelCallSpan | None:
    """The model call that is under way right here, if there is one.

    Whoever instruments a model library asks this first: the call has its span, and a second one would count its tokens
    twice. A tool or a graph in between begins something new, so only the innermost owner counts.
    """
    owner = current_scope(context)
    return owner if isinstance(owner, ModelCallSpan) and owner.is_open else None


class ModelCallSpan(SpanScope):
    """Owns ``chat {model}``, ``text_completion {model}`` or ``embeddings {model}``: one call of a model.

    The outermost library makes it (LangChain's ``ChatLlamaCpp``), and the engine inside (llama-cpp-python) finds it by
    ``current_model_call`` and writes what it has measured into ``measured``.

    Args:
        operation: One of the table's operations.
        model: As it was asked for.
        request: More attributes of the request, for the sampler to look at.
        kind: ``INTERNAL`` for a model in this process, ``CLIENT`` for one behind a network.

    Attributes:
        measured: Attributes to set when the span ends, over what the outer library says: an engine counts exactly.
        content: What is asked and answered; ``None`` unless the user has switched content on.
    """

    __slots__ = ("content", "measured", "model", "operation", "provider")

    def __init__(
        self,
        tracer: Tracer,
        operation: str,
        provider: str | None,
        model: str | None,
        request: Mapping[str, Any] | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: Context | None = None,
        start_time_ns: int | None = None,
        instruments: Instruments | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self.operation = operation
        self.provider = provider
        self.model = model
        self.measured: dict[str, Any] = {}
        attributes = {
            semconv.OPERATION_NAME: operation,
            semconv.PROVIDER_NAME: provider,
            semconv.REQUEST_MODEL: model,
            **(request or {}),
        }
        self.content = ModelContent.begin(logger_provider)
        if self.content is not None:
            self.content.facts.update(clean(attributes))
        name = operation if model is None else f"{operation} {model}"
        super().__init__(
            tracer,
            name,
            attributes,
            kind=kind,
            parent=parent,
            start_time_ns=start_time_ns,
            instruments=instruments,
        )
        if self.content is not None:
            self.content.facts.update(self.identity.attributes)

    @override
    def set(self, attributes: Mapping[str, Any]) -> None:
        if self.content is not None:
            self.content.facts.update(clean(attributes))
        super().set(attributes)

    @override
    def fail(self, error: BaseException) -> None:
        if self.content is not None:
            self.content.facts[semconv.ERROR_TYPE] = error_type(error)
        super().fail(error)

    @override
    def finish(self, outcome: Outcome = "ok", *, end_time_ns: int | None = None) -> bool:
        if self.is_open:
            if self.measured:
                self.set(self.measured)
            if self.content is not None:
                self.content.write(self.span)
        return super().finish(outcome, end_time_ns=end_time_ns)
