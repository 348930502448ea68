"""LangChain's objects as span attributes: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from nodespan import semconv
from nodespan.spans.attributes import fact
from nodespan.spans.model_call import SAMPLING_KEYS

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

_PROVIDERS: Final = {"llamacpp": "llama_cpp", "chatllamacpp": "llama_cpp"}
"""LangChain's names of providers for which ``semconv`` has another name."""

_SAMPLING_KEYS: Final = tuple([(key, f"ls_{key}") for key in SAMPLING_KEYS])
"""Names of the sampling parameters, and LangChain's of the same for its tracers."""
_ADDRESS_ENDINGS: Final = ("base_url", "api_base", "api_url", "server_url", "endpoint", "endpoint_url")
_SECRET_ENDINGS: Final = ("_api_key", "_api_token")

_OWN_IDS: Final = ("run-", "lc_run-")
"""Prefix of the ids that LangChain assigns to messages without an id of the provider."""


class Model(Protocol):
    """The used part of LangChain's ``BaseLanguageModel``."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Mapping[str, Any]: ...


class Generation(Protocol):
    """The used part of LangChain's ``Generation`` and ``ChatGeneration``."""

    @property
    def text(self) -> str: ...
    @property
    def generation_info(self) -> Mapping[str, Any] | None: ...


class Identity(NamedTuple):
    """Identity of a model: name and attributes of its span, which samplers read."""

    provider: str | None
    model: str | None
    parameters: Mapping[str, Any]


def identify(model: Model, kwargs: Mapping[str, Any]) -> Identity:
    """Provider, name and parameters of a chat model or LLM, as LangChain reports them to its tracers."""
    known = model._get_ls_params(**kwargs)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] meant to be overridden by providers, read by LangChain's tracers
    provider = _text(known.get("ls_provider"))
    return Identity(_PROVIDERS.get(provider or "", provider), _model_name(model, known.get("ls_model_name")), known)


def identify_embeddings(model: object) -> Identity:
    """The same of an embedding model, which LangChain does not report to its tracers."""
    provider = type(model).__name__.removesuffix("Embeddings").lower() or None
    name = fact(model, "model") or fact(model, "model_name")
    return Identity(_PROVIDERS.get(provider or "", provider), _model_name(model, name), {})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _model_name(model: object, name: object) -> str | None:
    """The requested name; of a model in a file the file's stem, as everywhere in nodespan."""
    if isinstance(name, str):
        return name
    path = fact(model, "model_path")
    return PurePath(path).stem if isinstance(path, (str, PurePath)) and str(path) else None


def kind_of(client: object) -> SpanKind:
    """``CLIENT`` for a model behind a network, ``INTERNAL`` for one that computes in this process.

    LangChain does not distinguish them. A class with a field for an address or a key counts as a client.
    """
    return SpanKind.CLIENT if _network_fields(type(client)) is not None else SpanKind.INTERNAL


def server_of(client: object) -> dict[str, Any]:
    """Address of the server, if the client has one."""
    for field in _network_fields(type(client)) or ():
        address = fact(client, field)
        if isinstance(address, str) and address:
            parts = urlsplit(address if "//" in address else f"//{address}")
            return {semconv.SERVER_ADDRESS: parts.hostname, semconv.SERVER_PORT: parts.port}
    return {}


@lru_cache(maxsize=128)
def _fields(kind: type) -> frozenset[str]:
    """The pydantic fields of a class. Reading a missing attribute of a model costs as much as everything else here."""
    return frozenset(cast("Mapping[str, object]", getattr(kind, "model_fields", None) or {}))


@lru_cache(maxsize=128)
def _network_fields(kind: type) -> tuple[str, ...] | None:
    """The fields that hold an address; ``None`` for a class without a field of a network client."""
    names = _fields(kind)
    addresses = tuple(name for name in sorted(names) if name.endswith(_ADDRESS_ENDINGS))
    return addresses if addresses or any(name.endswith(_SECRET_ENDINGS) for name in names) else None


def sampling_of(model: object, parameters: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The requested sampling: of the call, else as LangChain reports it to its tracers, else the model's own field."""
    fields = _fields(type(model))
    sampling: dict[str, Any] = {"stop": kwargs.get("stop") or (fact(model, "stop") if "stop" in fields else None)}
    for key, reported_key in _SAMPLING_KEYS:
        if key in kwargs:
            sampling[key] = kwargs[key]
        elif reported_key in parameters:
            sampling[key] = parameters[reported_key]
        elif key in fields:
            sampling[key] = fact(model, key)
    return sampling


def answer_attributes(generations: Sequence[Generation], llm_output: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata of the answers to one call: usage, finish reasons, id and model."""
    infos = [_info(generation) for generation in generations]
    reasons = [str(reason) for info in infos if (reason := _finish_reason(info)) is not None]
    messages = [message_of(generation) for generation in generations]
    whole = {**(llm_output or {}), **(infos[0] if infos else {})}
    attributes = _usage(messages, whole)
    if reasons:
        attributes[semconv.RESPONSE_FINISH_REASONS] = reasons
    model = whole.get("model_name") or whole.get("model")
    if isinstance(model, str):
        attributes[semconv.RESPONSE_MODEL] = _stem(model)
    if (found := _provider_id(whole, messages[0] if messages else None)) is not None:
        attributes[semconv.RESPONSE_ID] = found
    return attributes


def message_of(generation: Generation) -> BaseMessage | None:
    """The message of a chat model's answer; an LLM's has none."""
    return getattr(generation, "message", None)


def _info(generation: Generation) -> dict[str, Any]:
    metadata: Mapping[str, Any] = getattr(message_of(generation), "response_metadata", None) or {}
    return {**metadata, **(generation.generation_info or {})}


def finish_reason_of(generation: Generation) -> object:
    """The provider's finish reason of an answer."""
    return _finish_reason(_info(generation))


def _finish_reason(info: Mapping[str, Any]) -> object:
    return info.get("finish_reason") or info.get("stop_reason") or info.get("done_reason")


def _stem(model: str) -> str:
    return PurePath(model).stem if model.endswith(".gguf") else model


def _provider_id(whole: Mapping[str, Any], message: BaseMessage | None) -> str | None:
    found = whole.get("id") or (message.id if message is not None else None)
    return None if not isinstance(found, str) or found.startswith(_OWN_IDS) else found


def _usage(messages: Sequence[BaseMessage | None], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Of several answers to one prompt each has the usage of the whole call."""
    for message in messages:
        if usage := getattr(message, "usage_metadata", None):
            attributes = {
                semconv.USAGE_INPUT_TOKENS: usage["input_tokens"],
                semconv.USAGE_OUTPUT_TOKENS: usage["output_tokens"],
            }
            if read := usage.get("input_token_details"):
                attributes[semconv.USAGE_CACHE_READ] = read.get("cache_read")
                attributes[semconv.USAGE_CACHE_CREATION] = read.get("cache_creation")
            if written := usage.get("output_token_details"):
                attributes[semconv.USAGE_REASONING] = written.get("reasoning")
            return attributes
    given = whole.get("token_usage") or whole.get("usage")
    counts: Mapping[str, Any] = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
    return {
        semconv.USAGE_INPUT_TOKENS: counts.get("prompt_tokens", counts.get("input_tokens")),
        semconv.USAGE_OUTPUT_TOKENS: counts.get("completion_tokens", counts.get("output_tokens")),
    }


def retriever_name(retriever: Any) -> str:
    """Name of the searched data source: the vector store, else the retriever, as LangChain names them."""
    known: Mapping[str, Any] = retriever._get_ls_params()  # noqa: SLF001 as above
    return known.get("ls_vector_store_provider") or known.get("ls_retriever_name") or type(retriever).__name__


def arguments_of(tool: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool's arguments from the model, without those that LangChain injects: state, store, runtime."""
    if hasattr(tool, "_filter_injected_args"):
        return tool._filter_injected_args(given)  # noqa: SLF001 as LangChain does for its callbacks
    schema: Any = tool.tool_call_schema  # langchain-core before 1.1
    known: Iterable[str] = schema.model_fields if hasattr(schema, "model_fields") else schema.get("properties", ())
    return {name: given[name] for name in known if name in given}
