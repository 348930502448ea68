"""Opens the span of a call of a model, a tool or a retriever, from the call's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from nodespan import semconv
from nodespan.instrumentation._arguments import call_arguments, with_config
from nodespan.instrumentation._steps import Suppressed
from nodespan.instrumentation.langchain import _convert
from nodespan.instrumentation.langchain._messages import definitions, to_message
from nodespan.instrumentation.langchain._peers import makes_model_spans
from nodespan.instrumentation.langchain._spans import (
    STATE,
    Call,
    Entry,
    ModelCall,
    Retrieval,
    ToolCall,
    choose_run_ids,
    new_run_id,
)
from nodespan.instrumentation.langchain._stores import caller_context
from nodespan.spans.content import capture
from nodespan.spans.current import is_suppressed
from nodespan.spans.guard import Guard
from nodespan.spans.model_call import current_model_call
from nodespan.spans.scope import attached_scope, current_scope, own_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

_OPENING = Guard("open a LangChain span")

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]

_LANGCHAIN_KEYWORDS = frozenset({"callbacks", "config", "metadata", "run_id", "run_manager", "run_name", "tags"})


def chat(model: Any, args: Arguments, kwargs: Keywords) -> Call | None:
    """``BaseChatModel.generate(messages, stop, ...)``: one call for one list of messages."""
    conversations = args[0] if args else kwargs["messages"]
    if len(conversations) != 1:  # as many calls, each of which is opened by ``chat_of_several``
        return None
    call = _model_call(semconv.CHAT, model, _with_stop(args, kwargs), Entry.GENERATE)
    _set_input(call, conversations[0])
    return _with_run_id(call, kwargs)


def chat_of_several(model: Any, args: Arguments, kwargs: Keywords) -> ModelCall | None:
    """``BaseChatModel._generate_with_cache(messages, stop, run_manager, ...)``: one of several calls."""
    last, several = attached_scope(), Entry.ONE_OF_SEVERAL
    if isinstance(last, ModelCall) and last.is_open and last.continues_in(model, several):
        return None  # as nearly always: it is the one call of ``generate`` or ``stream``
    call = _model_call(semconv.CHAT, model, _with_stop(args, kwargs), several)
    if call is not None and (manager := args[2] if len(args) > 2 else kwargs.get("run_manager")) is not None:
        choose_run_ids(call, manager.run_id)
    _set_input(call, args[0] if args else kwargs["messages"])
    return call


def completion(model: Any, args: Arguments, kwargs: Keywords) -> Call | None:
    """``BaseLLM.generate(prompts, stop, ...)``: one call of the model for all prompts."""
    prompts = args[0] if args else kwargs["prompts"]
    call = _model_call(semconv.TEXT_COMPLETION, model, _with_stop(args, kwargs), Entry.GENERATE)
    _set_input(call, prompts)
    if call is None or len(prompts) == 1:
        return _with_run_id(call, kwargs)
    if kwargs.get("run_id") is None and (chosen := choose_run_ids(call, None, len(prompts))) is not None:
        kwargs["run_id"] = chosen
    return call


def embedding(model: Any, args: Arguments, kwargs: Keywords) -> ModelCall | None:
    """``embed_documents(texts)``, ``embed_query(text)`` and their async forms."""
    del args, kwargs
    parent = caller_context() if current_model_call() is None else None
    return _model_call(semconv.EMBEDDINGS, model, {}, Entry.EMBED, parent)


def tool(target: Any, args: Arguments, kwargs: Keywords) -> Call | None:
    """``BaseTool.run(tool_input, ..., run_id=..., tool_call_id=...)``."""
    if (here := STATE.surroundings()) is None:
        return None
    given: object = None
    if capture().on_spans:
        given = args[0] if args else kwargs["tool_input"]
        if isinstance(given, dict):
            given = _convert.arguments_of(target, cast("dict[str, Any]", given))
    return _with_run_id(ToolCall(here, target.name, kwargs.get("tool_call_id"), given), kwargs)


def missing_tool(node: Any, args: Arguments, kwargs: Keywords) -> Call | None:
    """``ToolNode._validate_tool_call(call)``, which answers the call of a tool that the node lacks with an error."""
    requested: Mapping[str, Any] = args[0] if args else kwargs["call"]
    if requested["name"] in node.tools_by_name or (here := STATE.surroundings()) is None:
        return None
    return ToolCall(here, requested["name"], requested["id"], requested["args"], is_missing=True)


def retrieval(target: Any, args: Arguments, kwargs: Keywords) -> Call | None:
    """``BaseRetriever.invoke(query, config, run_id=...)``."""
    if (here := STATE.surroundings()) is None:
        return None
    query, _ = call_arguments(args, kwargs)
    return _with_run_id(Retrieval(here, target, query), kwargs)


class Streaming:
    """A call of ``stream`` or ``astream``, whose span is opened at the first step."""

    __slots__ = ("_context", "_input", "_kwargs", "_model", "_operation", "_run_id")

    def __init__(
        self, operation: str, model: Any, model_input: object, kwargs: Mapping[str, Any], run_id: object
    ) -> None:
        self._operation = operation
        self._input = model_input
        self._model = model
        self._kwargs = kwargs
        self._run_id = run_id
        self._context = own_context()

    def open(self) -> ModelCall | Suppressed | None:
        """The call's span, below the span that was current at the call."""
        if is_suppressed(self._context):
            return Suppressed()
        with _OPENING:
            call = _model_call(self._operation, self._model, self._kwargs, Entry.STREAM, self._context)
            if call is not None and self._run_id is not None:
                choose_run_ids(call, self._run_id)
            if call is not None and call.content is not None:
                prompt = self._model._convert_input(self._input)  # noqa: SLF001 as ``stream`` itself does
                _set_input(call, prompt.to_messages() if self._operation == semconv.CHAT else [prompt.to_string()])
            return call
        return None


def streaming(
    operation: str, model: object, args: Arguments, kwargs: Keywords
) -> tuple[Streaming, Arguments, Keywords]:
    """The function that opens the span at the first step, and the arguments of the call."""
    run_id = None
    model_input, config = call_arguments(args, kwargs)
    with _OPENING:
        scope = current_scope()
        if scope is not None and scope.directory is not None and scope.directory.runs is not None:
            run_id = config.get("run_id") or new_run_id()
            args, kwargs = with_config(args, kwargs, {**config, "run_id": run_id})
    return Streaming(operation, model, model_input, kwargs, run_id), args, kwargs


class EventStream:
    """A model's own event stream, which LangChain assembles itself."""

    __slots__ = ("_context", "_kwargs", "_messages", "_model")

    def __init__(self, model: object, messages: object, kwargs: Mapping[str, Any]) -> None:
        self._model = model
        self._messages = messages
        self._kwargs = kwargs
        self._context = own_context()

    def open(self) -> ModelCall | Suppressed | None:
        """The call's span; ``None`` if LangChain uses the event stream inside a call that has one."""
        if is_suppressed(self._context):
            return Suppressed()
        with _OPENING:
            call = _model_call(semconv.CHAT, self._model, self._kwargs, Entry.EVENTS, self._context)
            if call is not None:
                call.accumulator = self._kwargs.get("stream")
                choose_run_ids(call, self._kwargs["run_manager"].run_id)
                _set_input(call, self._messages)
            return call
        return None


def _model_call(
    operation: str, model: Any, kwargs: Mapping[str, Any], entry: Entry, parent: Context | None = None
) -> ModelCall | None:
    if (here := STATE.surroundings(parent)) is None:
        return None
    outer = here.around
    if isinstance(outer, ModelCall) and outer.is_open and outer.continues_in(model, entry):
        return None
    given = {key: value for key, value in kwargs.items() if key not in _LANGCHAIN_KEYWORDS}
    embeds = operation == semconv.EMBEDDINGS
    identity = _convert.identify_embeddings(model) if embeds else _convert.identify(model, given)
    if operation == semconv.CHAT and makes_model_spans(identity.parameters.get("ls_model_name"), here.context):
        return None
    call = ModelCall(here, operation, model, identity, given, entry)
    if call.content is not None:
        call.content.set_tools(definitions(given.get("tools") or given.get("functions")))
    return call


def _set_input(call: ModelCall | None, messages: Any) -> None:
    if call is not None and call.content is not None:
        call.content.set_input(messages, to_message)


def _with_stop(args: Arguments, kwargs: Keywords) -> Mapping[str, Any]:
    return {**kwargs, "stop": args[1]} if len(args) > 1 else kwargs


def _with_run_id(call: Call | None, kwargs: Keywords) -> Call | None:
    if call is not None and (chosen := choose_run_ids(call, kwargs.get("run_id"))) is not None:
        kwargs["run_id"] = chosen[0]
    return call
