"""The contract between the Runner and a pipeline, which runs a model in this process or on a server."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeGuard

from nodespan.engine.prefix import PrefixUse
from nodespan.types import ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from nodespan.types import GenerationRequest

_MAX_INT: Final = 2**63 - 1
"""Maximum integer of an OTLP attribute."""

_MAX_REASON: Final = 64
"""Maximum length of a finish reason, which is a label of a metric."""


class Cancellation:
    """Cooperative cancellation flag of a generation, set by the Runner. Once set, it stays set.

    Safe from any thread, a destructor included: it acquires no lock.

    Attributes:
        flag: Two bytes, ``00 00`` before the request and ``01 00`` after it. Native code may hold their address: read
            as a C string they are empty before and not empty after.
        wake: Called by each request, if set; for the Runner.
    """

    __slots__ = ("flag", "wake")

    def __init__(self) -> None:
        self.flag = bytearray(2)
        self.wake: Callable[[], None] | None = None

    def request(self) -> None:
        """Requests the end."""
        self.flag[0] = 1
        if (wake := self.wake) is not None:
            wake()

    @property
    def requested(self) -> bool:
        """Whether the end was requested."""
        return self.flag[0] != 0


class Server(NamedTuple):
    """Where a model is served.

    Attributes:
        address: Host name or IP address, without brackets.
        port: TCP port.
    """

    address: str
    port: int


class EnginePhase(NamedTuple):
    """A measured phase of a generation, which becomes a child span.

    Attributes:
        name: Name of the span, such as ``llama_cpp.prefill``.
        start_at: Its start as a ``time.perf_counter()``.
        duration_s: Its length by the engine's own clock.
        tokens: Tokens evaluated in it.
    """

    name: str
    start_at: float
    duration_s: float
    tokens: int | None = None


def _unknown() -> None:
    """Return ``None``: the engine does not report this count."""


@dataclass(slots=True)
class GenerationResult:
    """A pipeline's measurements of one generation, filled in while it runs. An unknown value stays ``None``.

    Attributes:
        context_size: Tokens that fit into the model's context.
        input_tokens: Tokens of the prompt, the cached ones included.
        cached_input_tokens: Those of them that were not evaluated again.
        output_tokens: Tokens sampled so far, without the end-of-generation token.
        prefill_tokens: Tokens evaluated before the first one was sampled.
        decode_tokens: Tokens evaluated after that.
        prefill_s: Time of the engine's own clock for ``prefill_tokens``.
        decode_s: The same for ``decode_tokens``.
        prefill_at: ``time.perf_counter()`` at the start of the prefill.
        first_token_at: ``time.perf_counter()`` at the first token.
        finish_reason: Reason for the end of the answer: ``stop``, ``length`` or the engine's own value.
        evaluated: Returns the prompt tokens in the context so far; called on another thread during the prefill.
        model_bytes: Size of the model's tensors.
        state_bytes: Size of its context's state at the end, KV cache included.
        phases: Child spans to create, named by the pipeline. The names ``llama_cpp.*`` are reserved for measurements of
            llama.cpp; its metrics are recorded with them.
        server_queue_s: Time in the queue of the model's server.
        tokens_estimated: The texts were counted, because the server reports no counts.
        provider: Provider in place of the profile's, determined by probing the server.
        attributes: Further attributes of the model's span.
        prefix: Comparison of the prompt with the tokens in the model's context.
        tool_calls: Tools that the model calls. This attribute and the following ones are content, for the reader of the
            stream.
        reasoning: Text of the model's reasoning, which is not part of the answer.
        logprobs: Log probabilities, in the engine's own form.
    """

    context_size: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    prefill_tokens: int | None = None
    decode_tokens: int | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    prefill_at: float | None = None
    first_token_at: float | None = None
    finish_reason: str | None = None
    evaluated: Callable[[], int | None] = _unknown
    model_bytes: int | None = None
    state_bytes: int | None = None
    phases: list[EnginePhase] = field(default_factory=list[EnginePhase])
    server_queue_s: float | None = None
    tokens_estimated: bool | None = None
    provider: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    prefix: PrefixUse | None = field(default_factory=_unknown)
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    reasoning: str = ""
    logprobs: list[Any] = field(default_factory=list[Any])

    def facts(self, entered_at: float) -> dict[str, Any]:
        """The measurements by the keys of ``PipelineExecutionMetadata``.

        Args:
            entered_at: ``time.perf_counter()`` at the request.
        """
        speed = None
        if self.decode_s and self.output_tokens and self.output_tokens > 1:
            speed = (self.output_tokens - 1) / self.decode_s
        return {
            "time_to_first_token_s": None if self.first_token_at is None else self.first_token_at - entered_at,
            "server_queue_s": self.server_queue_s,
            "prompt_eval_s": self.prefill_s,
            "decode_s": self.decode_s,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "tokens_per_s": speed,
            "tokens_estimated": self.tokens_estimated,
        }

    def checked(self, entered_at: float) -> tuple[GenerationResult, list[str]]:
        """A copy without impossible values, and the names of these.

        A pipeline may write anything here. Counts are integers from 0 to 2**63 - 1, times are finite numbers from 0,
        points in time are not earlier than the request.

        Args:
            entered_at: ``time.perf_counter()`` at the request.
        """
        sound, bad = GenerationResult(), list[str]()
        for name in (one.name for one in fields(self) if one.name != "evaluated"):
            is_whole = False
            # Reading a foreign object may raise anything, an exit included.
            with contextlib.suppress(BaseException):
                value, is_whole = _possible_part(name, getattr(self, name), entered_at)
                setattr(sound, name, value)
            if not is_whole:
                bad.append(name)
        return sound, bad


def is_count(value: object) -> bool:
    """Whether a measured value can be a number of tokens or bytes."""
    return type(value) is int and 0 <= value <= _MAX_INT


def _is_time(value: object, least: float = 0.0) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= least  # type: ignore[arg-type, operator] type() narrows nothing


def _is_possible(name: str, value: object, entered_at: float) -> bool:
    if name == "tokens_estimated":
        return isinstance(value, bool)
    if name == "prefix":
        return isinstance(value, PrefixUse)
    if name in {"finish_reason", "provider"}:
        return isinstance(value, str) and 0 < len(value) <= _MAX_REASON
    if name.endswith("_at"):
        return _is_time(value, entered_at)
    return _is_time(value) if name.endswith("_s") else is_count(value)


def _is_phase(phase: object, entered_at: float) -> TypeGuard[EnginePhase]:
    return (
        isinstance(phase, EnginePhase)
        and isinstance(phase.name, str)  # pyright: ignore[reportUnnecessaryIsInstance] a pipeline may write anything
        and _is_time(phase.start_at, entered_at)
        and _is_time(phase.duration_s)
        and (phase.tokens is None or is_count(phase.tokens))
    )


_KINDS: Final[Mapping[str, Any]] = {
    "attributes": dict,
    "logprobs": list,
    "phases": list,
    "reasoning": str,
    "tool_calls": list,
}


def _possible_part(name: str, value: Any, entered_at: float) -> tuple[object, bool]:
    """The value of a field without what is impossible, and whether that is all of it."""
    kind = _KINDS.get(name)
    if kind is None:
        is_possible = value is None or _is_possible(name, value, entered_at)
        return value if is_possible else None, is_possible
    if not isinstance(value, kind):
        return kind(), False
    copied: Any = kind(value)
    if kind is not list:
        return copied, True
    possible = [item for item in copied if _is_item(name, item, entered_at)]
    return possible, len(possible) == len(copied)


def _is_item(name: str, item: object, entered_at: float) -> bool:
    if name == "phases":
        return _is_phase(item, entered_at)
    return name == "logprobs" or isinstance(item, ToolCall)


class Pipeline(Protocol):
    """A loaded model that one thread uses at a time: the synchronous form of the contract.

    Its constructor accepts a ``ModelProfile`` and loads the model. One thread alone loads, uses and closes it, for one
    generation at a time. A class may have static methods: ``check_profile(profile)`` raises at set-up
    what would fail at the first request; ``server_of(profile)`` returns the ``Server`` that runs the model, ``None``
    for this process.
    """

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        """Streams the answer to one request.

        Yields:
            Pieces of text, none empty, none with half a character.

        Between two pieces the caller may end the generation by closing the generator. While it runs, ``cancellation``
        is checked after every token and, where the engine allows it, during the prefill; once requested, the generator
        ends soon and without an error. After every kind of end (complete, closed, cancelled, failed) the pipeline
        serves the next request with the text that a newly loaded model would generate, and ``result`` has the
        measurements up to the end. The engine's own errors pass through unchanged.
        """
        ...

    def close(self) -> None:
        """Frees the model. May be called twice; nothing else is called afterwards."""
        ...


class AsyncPipeline(Protocol):
    """A model that serves several requests at once: the asynchronous form of the contract.

    It is created in a thread (the loading, which may block) and then used on one event loop. A model of
    a class with ``agenerate`` is not held in this process: it does not count as loaded in ``max_loaded``. The static
    methods are those of ``Pipeline``.

    Attributes:
        slots: Requests that it serves at once, 1 or more; read before each request.
    """

    slots: int

    def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        """Streams the answer to one request, as ``Pipeline.generate`` does.

        A requested cancellation also cancels the task that waits for the next piece, once. The generator then frees
        the server's resources and lets ``asyncio.CancelledError`` pass.
        """
        ...

    async def aclose(self) -> None:
        """Closes its connections. May be called twice; nothing else is called afterwards."""
        ...
