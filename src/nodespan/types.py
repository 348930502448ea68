"""Data that several packages use: a model set-up, a request, and the measurements of its answer.

Everything here is frozen. Durations are seconds, counts are tokens of the model's own vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from nodespan.errors import ConfigurationError

FinishReason = str
"""``stop``, ``length``, ``cancelled``, ``error``, or the engine's own value, such as ``tool_calls``."""

CacheStatus = Literal["hit", "loaded"]
Status = Literal["ok", "error", "interrupted", "cancelled"]

UNKNOWN_PROVIDER: Final = "OPENAI_COMPATIBLE"
"""Provider of a server whose dialect is not known yet."""

_Seconds = Annotated[float, Field(ge=0)]
_Tokens = Annotated[int, Field(ge=0)]


class ModelProfileType(IntEnum):
    """The model set-ups of a factory. Another ``IntEnum`` can be used instead; use one class per factory."""

    Primary = 0
    Secondary = 1
    Embedding = 2


class PipelinePriority(IntEnum):
    """Priority of a request for a model: the highest is served first, equal ones by arrival."""

    LOW = 1
    MEDIUM = 5
    NORMAL = 10
    HIGH = 11
    CRITICAL = 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class _CheckedAtSetUp(_Frozen):
    """Converts pydantic's ``ValidationError`` to a ``ConfigurationError`` that names each invalid field."""

    @model_validator(mode="wrap")
    @classmethod
    def _as_configuration_error(cls, data: Any, build: Callable[[Any], Self]) -> Self:
        try:
            return build(data)
        except ValidationError as error:
            raise ConfigurationError(_explain(cls, error)) from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = [f"Invalid {model.__name__}:"]
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {field}: unknown field. Allowed: {', '.join(sorted(model.model_fields))}.")
        else:
            given = problem["input"]  # only numbers are shown: a text may be a prompt
            where = f"{field}={given!r}" if isinstance(given, (int, float)) else f"{field} ({type(given).__name__})"
            lines.append(f"  {where}: {problem['msg']}.")
    return "\n".join(lines)


class Sampling(_CheckedAtSetUp):
    """Sampling parameters, with llama-cpp-python's names.

    For a value that is not given, the default applies: in a request the profile's, in a profile the engine's. A
    request removes a value of the profile with ``None``, or ``()`` for ``stop``.
    """

    max_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: int | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: tuple[str, ...] = ()

    def over(self, defaults: Sampling) -> dict[str, Any]:
        """The effective values by name: those given here, else those given in ``defaults``.

        A value given as ``None`` or as ``()`` removes the default, so that the engine's own value applies.
        """
        given = {**defaults.model_dump(exclude_unset=True), **self.model_dump(exclude_unset=True)}
        return {name: value for name, value in given.items() if value is not None and value != ()}


class ModelProfile(_CheckedAtSetUp):
    """One model set-up: a file for llama.cpp in this process, or the address of a server.

    Args:
        model_path: The GGUF file. Not needed with ``base_url``, nor by ``nodespan.testing.EchoPipeline``.
        name: The model's name on spans, in metadata and metrics, and in requests to a server; the file's stem if not
            given.
        provider: ``model_provider`` of the metadata. Default: ``"LLAMA_CPP"`` in this process; with ``base_url`` the
            dialect's.
        n_ctx: Context length in tokens.
        n_batch: Tokens evaluated per ``llama_decode`` while prefilling.
        n_threads: Threads for generation; llama.cpp's default if not given.
        n_gpu_layers: Layers kept on a GPU, -1 for all.
        chat_format: A llama-cpp-python chat format; the template inside the file if not given.
        sampling: Defaults for every request; values of the request take precedence.
        options: Further arguments of ``llama_cpp.Llama``, or fields of the server's request, passed unchanged.
        base_url: Address of a server with OpenAI's protocol, ``"http://127.0.0.1:8080/v1"``, or several
            addresses of servers of one kind: the least busy one is used, another one if it fails.
        dialect: Kind of the server: ``llama-server``, ``llama-cpp-python``, ``ollama``, ``vllm``, ``sglang`` or
            ``openai``. If not given, a server on this machine or in a private network is probed once, others are
            ``openai``.
        max_concurrency: Requests to the servers at once; as many as they have slots, if not given.
        api_key: Sent as ``Authorization: Bearer``.
        headers: Further headers of each request.
        verify: Whether TLS certificates are verified, or the file of the authorities to trust.

    Raises:
        ConfigurationError: A value is invalid, such as ``n_ctx=0``.
    """

    model_path: Path | None = None
    name: str = ""
    provider: str = "LLAMA_CPP"
    n_ctx: Annotated[int, Field(gt=0)] = 4096
    n_batch: Annotated[int, Field(gt=0)] = 512
    n_threads: Annotated[int, Field(gt=0)] | None = None
    n_gpu_layers: int = 0
    chat_format: str | None = None
    sampling: Sampling = Sampling()
    options: Mapping[str, Any] = {}
    base_url: str | tuple[str, ...] = ()
    dialect: Literal["llama-server", "llama-cpp-python", "ollama", "vllm", "sglang", "openai"] | None = None
    max_concurrency: Annotated[int, Field(gt=0)] | None = None
    api_key: SecretStr | None = None
    headers: Annotated[Mapping[str, str], Field(repr=False)] = {}
    verify: bool | Path = True

    @model_validator(mode="before")
    @classmethod
    def _default_provider(cls, data: Any) -> Any:
        if isinstance(data, dict) and "base_url" in data and "provider" not in data:
            return {**data, "provider": UNKNOWN_PROVIDER}  # pyright: ignore[reportUnknownVariableType] the caller's argument
        return data  # pyright: ignore[reportUnknownVariableType] the caller's argument

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The addresses of the servers."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url

    @property
    def model_name(self) -> str:
        """The given name, else the model file's stem, else the provider in lower case."""
        return self.name or (self.model_path.stem if self.model_path else self.provider.lower())


_Object = Mapping[str, Any]
"""A JSON object of the OpenAI protocol, passed unchanged."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call in a model's answer.

    Attributes:
        id: The engine's id of the call; empty if it has none.
        name: Name of the tool.
        arguments: Its arguments as the model wrote them, usually a JSON object.
    """

    id: str
    name: str
    arguments: str


class ChatMessage(_CheckedAtSetUp):
    """One message for the model's chat template.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: The text.
        name: Name of the author.
        tool_calls: The calls of an assistant's answer, as objects of the OpenAI protocol.
        tool_call_id: The call that a message of the role ``tool`` answers.
        parts: Content parts of the OpenAI protocol, such as images and texts. Sent instead of ``content``, for
            multimodal models.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[_Object, ...] = ()
    tool_call_id: str | None = None
    parts: tuple[_Object, ...] = ()

    def as_object(self) -> dict[str, Any]:
        """The message as an object of the OpenAI protocol."""
        content = [dict(part) for part in self.parts] or self.content
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        more = {"name": self.name, "tool_call_id": self.tool_call_id}
        return {**message, **{key: value for key, value in more.items() if value is not None}}


class GenerationRequest(_CheckedAtSetUp):
    """A request to a model: chat messages or a raw prompt, exactly one of the two.

    Args:
        messages: The chat.
        prompt: The raw prompt.
        sampling: Values that take precedence over the profile's.
        tools: Tools that the model may call, as objects of the OpenAI protocol; with messages only.
        tool_choice: ``auto``, ``none``, ``required``, or an object that names a tool.
        response_format: Such as ``{"type": "json_object"}``, with or without a schema; with messages only.
        options: Further arguments of the engine's call, passed unchanged: ``grammar``, ``logprobs``, ...

    Raises:
        ConfigurationError: Neither or both are given, or a value is invalid.
    """

    messages: tuple[ChatMessage, ...] = ()
    prompt: str | None = None
    sampling: Sampling = Sampling()
    tools: tuple[_Object, ...] = ()
    tool_choice: str | _Object | None = None
    response_format: _Object | None = None
    options: _Object = {}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if bool(self.messages) == (self.prompt is not None):
            raise ConfigurationError(
                "GenerationRequest requires either messages=[{'role': ..., 'content': ...}] or prompt='...'."
            )
        if self.prompt is not None and (self.tools or self.tool_choice or self.response_format):
            raise ConfigurationError(
                "GenerationRequest(prompt=...) does not accept tools, tool_choice or response_format. "
                "Give messages=[...]."
            )
        return self

    def arguments(self) -> dict[str, Any]:
        """The given ones of tools, tool choice, response format and options, by their names in the OpenAI protocol."""
        tools = [dict(tool) for tool in self.tools] or None
        given = {"tools": tools, "tool_choice": self.tool_choice, "response_format": self.response_format}
        return {**{key: value for key, value in given.items() if value is not None}, **self.options}

    @property
    def operation(self) -> Literal["chat", "text_completion"]:
        """The GenAI operation name of this request: ``chat`` or ``text_completion``."""
        return "chat" if self.messages else "text_completion"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One streamed piece of text. It is not a token: some tokens produce no text, and one piece may contain several.

    Attributes:
        content: The text, never half a character.
        index: Its place in the stream, from 0.
    """

    content: str
    index: int


class PipelineExecutionMetadata(_Frozen):
    """The measurements of one generation. An unknown value is ``None``.

    Attributes:
        queue_s: Waiting in nodespan's queue for the model.
        server_queue_s: Waiting in the server's queue, where the server reports when a slot begins.
        load_s: Loading of the model, or connecting to its server, by this request.
        time_to_first_token_s: From the Runner's entry to the first token, queue and loading included.
        prompt_eval_s: Prefill, by the engine's own clock.
        decode_s: Decode after the first token, by the engine's own clock.
        input_tokens: Prompt tokens, the cached ones included.
        cached_input_tokens: Prompt tokens found in the KV cache and not evaluated again.
        output_tokens: Sampled tokens without the end-of-generation token, as in the non-streamed ``usage``.
        tokens_per_s: ``(output_tokens - 1) / decode_s``; absent for a single token.
        tokens_estimated: The token counts are of the texts, as the server reports none of the generation.
    """

    model_name: str
    model_provider: str
    pipeline_type: str
    cache_status: CacheStatus | None = None
    queue_s: _Seconds | None = None
    server_queue_s: _Seconds | None = None
    load_s: _Seconds | None = None
    time_to_first_token_s: _Seconds | None = None
    prompt_eval_s: _Seconds | None = None
    decode_s: _Seconds | None = None
    input_tokens: _Tokens | None = None
    cached_input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    tokens_per_s: float | None = None
    tokens_estimated: bool | None = None
    finish_reason: FinishReason | None = None
    error_type: str | None = None


STATE_ONLY_KEYS: Final = frozenset({"trace_id", "span_id", "traceparent"})
"""Keys of an entry that identify the span and so are not attributes of it."""


class NodeMetadata(PipelineExecutionMetadata):
    """The metadata of one node execution: an entry of ``WorkflowState.node_metadata`` and the attributes of its span.

    Every key K is the span attribute ``nodespan.K`` with the same value, except ``trace_id``, ``span_id`` and
    ``traceparent``, which are the span. A key without a value is absent on both sides.

    Attributes:
        node_name: The display name that was given, or the LangGraph node's name.
        node_id: 8 hex digits, unique per node execution, retries included.
        execution_time: Start of the execution, ISO 8601, UTC.
        duration_s: From the start to the node's return.
        traceparent: W3C Trace Context, version 00, of the node's span.
    """

    model_name: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride] unknown before the pipeline is created
    model_provider: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride] as above
    pipeline_type: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride] as above
    node_name: str
    node_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    node_type: str
    profile_type: int
    priority: int
    streaming: bool
    execution_time: str
    user_id: str | None = None
    conversation_id: str | int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    traceparent: str | None = None
    status: Status | None = None
    duration_s: _Seconds | None = None

    def entry(self) -> dict[str, Any]:
        """The entry for the state: plain JSON types, without the keys that have no value."""
        return {key: value for key, value in self.__dict__.items() if value is not None}
