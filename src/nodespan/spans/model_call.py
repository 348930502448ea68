"""One call of a model: its span, its metrics and its content, however many libraries the call passes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind
from typing_extensions import override

from nodespan import semconv
from nodespan.spans.attributes import PlainAttributes, to_attributes
from nodespan.spans.content import ModelContent
from nodespan.spans.exceptions import error_type
from nodespan.spans.instruments import exemplar_context
from nodespan.spans.scope import SpanScope, current_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from nodespan.spans.instruments import Instruments
    from nodespan.spans.scope import Outcome

_SAMPLING: Final = {
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": semconv.REQUEST_TOP_K,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "seed": semconv.REQUEST_SEED,
}
_USAGE: Final = ".usage."
"""Part of the name of each attribute with a number of tokens."""
_INNER_MAX: Final = 1000
"""Inner calls whose usage is kept until the call ends."""

SAMPLING_KEYS: Final = tuple(_SAMPLING)
"""Names of the sampling parameters that have an attribute, as most libraries call them; ``stop`` is one more."""


def request_attributes(sampling: Mapping[str, Any], *, streams: bool | None = None) -> dict[str, Any]:
    """Attributes of a request for text. Parameters that are not set, or are not numbers, are left out.

    Args:
        sampling: Parameters by ``SAMPLING_KEYS``, and ``stop``: a text or a sequence of texts.
        streams: The answer is requested piece by piece; ``None`` if unknown.
    """
    attributes: dict[str, Any] = {
        name: value for key, name in _SAMPLING.items() if isinstance(value := sampling.get(key), (int, float))
    }
    stop = sampling.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    if isinstance(stop, (list, tuple)) and stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = [str(text) for text in stop]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] of any type
    if streams is not None:
        attributes[semconv.REQUEST_STREAM] = streams
    return attributes


def current_model_call() -> ModelCallSpan | None:
    """The model call whose work encloses the caller most closely, if that is a model call.

    Only the innermost scope counts: a tool or a graph inside a model call is not part of it.
    """
    scope = current_scope()
    return scope if isinstance(scope, ModelCallSpan) and scope.is_open else None


class ModelCallSpan(SpanScope):
    """Owns ``chat {model}``, ``text_completion {model}`` or ``embeddings {model}``: one call of a model.

    The outermost library opens it (LangChain's ``ChatLlamaCpp``); the engine inside (llama-cpp-python) finds it with
    ``current_model_call`` and writes its measurements into ``measured``. That is one call through two libraries. A call
    of another model inside has a separate span. Where the outer call only passes on the usage of an inner one, or the
    sum of several, its own span and metrics leave that usage out, so that each token counts once.

    Args:
        operation: One of the operations in ``semconv``.
        model: The requested model.
        request: Further attributes of the request.
        kind: ``INTERNAL`` for a model in this process, ``CLIENT`` for one behind a network.

    Attributes:
        measured: Attributes to set when the span ends. They replace those of the outer library: an engine's counts are
            exact.
        content: Input and output; ``None`` unless the user has enabled content.
    """

    __slots__ = (
        "_engine_model",
        "_inner_usage",
        "_passes_usage_on",
        "content",
        "measured",
        "model",
        "operation",
        "provider",
    )

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
        around: SpanScope | None = None,
    ) -> None:
        self.operation = operation
        self.provider = provider
        self.model = model
        self.measured: dict[str, Any] = {}
        self._engine_model: str | None = None
        self._inner_usage: list[tuple[int | None, int | None]] = []
        self._passes_usage_on = False
        attributes = {
            semconv.OPERATION_NAME: operation,
            semconv.PROVIDER_NAME: provider,
            semconv.REQUEST_MODEL: model,
            **(request or {}),
        }
        self.content: ModelContent | None = None
        name = operation if model is None else f"{operation} {model}"
        super().__init__(
            tracer,
            name,
            attributes,
            kind=kind,
            parent=parent,
            start_time_ns=start_time_ns,
            instruments=instruments,
            around=around,
        )
        if not self.is_suppressed:
            self.content = ModelContent.begin(logger_provider)
        if self.content is not None:
            self.content.facts.update(to_attributes({**attributes, **self.identity.attributes}))

    def is_call_of(self, operation: str, model: str | None, *, may_be_alias: bool = False) -> bool:
        """Whether a call of an engine inside is this call, made through a second library.

        It is if it has the same model and the same kind of operation. If the outer library does not name its model, the
        model of the first such call is assumed.

        Args:
            operation: One of the operations in ``semconv``.
            model: Name of the engine's model.
            may_be_alias: The outer library may have another name for it, as for a model in a file.
        """
        if (operation == semconv.EMBEDDINGS) != (self.operation == semconv.EMBEDDINGS):
            return False
        if self.model is not None and model is not None and model != self.model and not may_be_alias:
            return False
        if self._engine_model is None:
            self._engine_model = model
        return model == self._engine_model

    def note_inner_usage(self, usage: tuple[int | None, int | None]) -> None:
        """Keeps the input and output tokens of an inner call until this call ends."""
        if len(self._inner_usage) < _INNER_MAX:
            self._inner_usage.append(usage)

    @override
    def set(self, attributes: Mapping[str, Any]) -> None:
        super().set(self._own(attributes))

    def _own(self, attributes: Mapping[str, Any]) -> PlainAttributes:
        """The attributes and the content for the call's own span."""
        if self._passes_usage_on:
            attributes = {name: value for name, value in attributes.items() if _USAGE not in name}
        held = to_attributes(attributes)
        if self.content is not None:
            self.content.facts.update(held)
        return held

    @override
    def fail(self, error: BaseException) -> None:
        if self.content is not None:
            self.content.facts[semconv.ERROR_TYPE] = error_type(error)
        super().fail(error)

    @override
    def finish(
        self, outcome: Outcome = "ok", *, end_time_ns: int | None = None, attributes: PlainAttributes | None = None
    ) -> bool:
        if self.is_open:
            if self.measured or attributes:
                attributes = self._own({**(attributes or {}), **self.measured})
            if self.content is not None:
                self.content.write(self.span)
        return super().finish(outcome, end_time_ns=end_time_ns, attributes=attributes)

    def record(
        self,
        *,
        duration_s: float,
        time_to_first_chunk_s: float | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        finish_reason: str | None = None,
        error_type: str | None = None,
    ) -> None:
        """Records duration, usage and time to first chunk as metrics. Never raises.

        Called once, when the call ends and before its usage is set, with the facts of its span. ``None`` is not
        recorded. Usage that inner calls have counted is neither recorded nor set.

        Args:
            duration_s: From the request to its end.
            time_to_first_chunk_s: From the request to the first chunk; only for a streamed answer.
            input_tokens: Prompt tokens, cached ones included.
            output_tokens: Generated tokens.
            finish_reason: ``stop``, ``length``, ``cancelled``, ``error`` or a provider's own reason.
            error_type: Class of the error that ended it.
        """
        input_tokens, output_tokens = self._own_usage(input_tokens, output_tokens)
        instruments = self.instruments
        if not instruments.are_live:
            return
        context = exemplar_context(self.span)
        call = {
            semconv.OPERATION_NAME: self.operation,
            semconv.PROVIDER_NAME: self.provider or "unknown",
            semconv.REQUEST_MODEL: self.model,
        }
        ended = {**call, semconv.FINISH_REASON: finish_reason, semconv.ERROR_TYPE: error_type}
        instruments.record(semconv.OPERATION_DURATION, duration_s, ended, context)
        if time_to_first_chunk_s is not None:
            instruments.record(semconv.TIME_TO_FIRST_CHUNK, time_to_first_chunk_s, call, context)
        for token_type, tokens in (("input", input_tokens), ("output", output_tokens)):
            if tokens is not None:
                instruments.record(semconv.TOKEN_USAGE, tokens, {**call, semconv.TOKEN_TYPE: token_type}, context)

    def _own_usage(self, input_tokens: int | None, output_tokens: int | None) -> tuple[int | None, int | None]:
        """The usage without the tokens that inner calls have counted. The remainder is reported to enclosing calls."""
        usage = (input_tokens, output_tokens)
        if usage == (None, None):
            return usage
        inner = self._inner_usage
        if inner and self._engine_model is None:  # else an engine has measured the usage of this very call
            sums = tuple(sum(tokens or 0 for tokens in of_one_type) for of_one_type in zip(*inner, strict=True))
            if usage in inner or usage == sums:
                self._passes_usage_on = True
                return None, None
        outer = self.parent
        while outer is not None:
            if isinstance(outer, ModelCallSpan):
                outer.note_inner_usage(usage)
            outer = outer.parent
        return usage
