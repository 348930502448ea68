"""Tools for tests of programs that use nodespan: the span tree as plain data, and pipelines without a model."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nodespan.engine.measurement import llama_cpp_phases
from nodespan.errors import ConfigurationError
from nodespan.testing._self_test import self_test as self_test
from nodespan.testing.servers import FakeServer as FakeServer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from nodespan.runner import Cancellation, GenerationResult
    from nodespan.types import GenerationRequest, ModelProfile

Tree = dict[str, Any]


def span_tree(exporter: InMemorySpanExporter, *attributes: str) -> list[Tree]:
    """The finished spans as nested dicts: name, status, chosen attributes, names of events, children by start.

    Ids, times and empty fields are left out: a span that is ok, and has no events and none of the chosen attributes, is
    ``{"name": ...}``. A span whose parent is not among the spans is a root.

    Args:
        exporter: Holds the spans.
        attributes: Names of the attributes to show; a name that ends in ``*`` selects all with that prefix.
    """
    spans: Sequence[ReadableSpan] = exporter.get_finished_spans()
    known = {_id(span) for span in spans}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent is not None else None
        children.setdefault(parent if parent in known else None, []).append(span)
    return [_node(span, children, attributes) for span in children.get(None, [])]


def _node(span: ReadableSpan, children: Mapping[int | None, list[ReadableSpan]], wanted: Iterable[str]) -> Tree:
    node: Tree = {"name": span.name}
    if span.status.status_code.name == "ERROR":
        node["status"] = "ERROR"
    if shown := {key: value for key, value in (span.attributes or {}).items() if _is_wanted(key, wanted)}:
        node["attributes"] = shown
    if events := [event.name for event in span.events]:
        node["events"] = events
    if span.links:
        node["links"] = len(span.links)
    if below := [_node(child, children, wanted) for child in children.get(_id(span), [])]:
        node["children"] = below
    return node


def _is_wanted(key: str, wanted: Iterable[str]) -> bool:
    return any(key.startswith(name[:-1]) if name.endswith("*") else key == name for name in wanted)


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context is not None else 0


class _Echo:
    """Base of both echo pipelines: the profile, the words, and their measurements."""

    _KNOWN: ClassVar[frozenset[str]] = frozenset({"answer", "delay_s", "engine", "error", "error_at"})

    def __init__(self, profile: ModelProfile) -> None:
        self.check_profile(profile)
        options = profile.options
        self._profile = profile
        self._answer: str | None = options.get("answer")
        self._delay_s: float = options.get("delay_s", 0.0)
        self._error: BaseException | None = options.get("error")
        self._error_at: int = options.get("error_at", 0)
        self._engine: str | None = options.get("engine")
        self._cached: list[str] = []

    @classmethod
    def check_profile(cls, profile: ModelProfile) -> None:
        """Raises for an unknown option."""
        if unknown := sorted(set(profile.options) - cls._KNOWN):
            raise ConfigurationError(
                f"{cls.__name__} has no option {', '.join(unknown)}. It has: {', '.join(sorted(cls._KNOWN))}."
            )

    def _steps(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str | float]:
        """The words, each after the seconds to pause before it."""
        result.prefill_at = time.perf_counter()
        result.context_size = self._profile.n_ctx
        self._read_prompt(request, result)
        sampling = request.sampling.over(self._profile.sampling)
        words, max_tokens = _words(self._text(request, sampling)), sampling.get("max_tokens")
        result.output_tokens = result.decode_tokens = 0
        started = result.prefill_at
        for index, word in enumerate(words[:max_tokens]):
            yield self._delay_s
            if cancellation.requested:
                return
            if self._error is not None and index == self._error_at:
                raise self._error
            now = time.perf_counter()
            if index == 0:
                result.first_token_at = started = now
                result.prefill_s = now - result.prefill_at
            result.output_tokens = index + 1
            result.decode_tokens = index
            result.decode_s = now - started
            if self._engine == "llama_cpp":
                result.phases = llama_cpp_phases(result)
            yield word
        result.finish_reason = "stop" if max_tokens is None or len(words) <= max_tokens else "length"

    def _read_prompt(self, request: GenerationRequest, result: GenerationResult) -> None:
        texts = [request.prompt or "", *(message.content for message in request.messages)]
        words = [word for text in texts for word in _words(text)]
        same = 0
        for word, cached in zip(words, self._cached, strict=False):
            if word != cached:
                break
            same += 1
        self._cached = words
        result.input_tokens = len(words)
        result.cached_input_tokens = same
        result.prefill_tokens = len(words) - same

    def _text(self, request: GenerationRequest, sampling: Mapping[str, Any]) -> str:
        text = self._answer
        if text is None:
            text = request.prompt if request.prompt is not None else request.messages[-1].content
        for stop in sampling.get("stop", ()):
            text = text.partition(stop)[0]
        return text


class EchoPipeline(_Echo):
    """A deterministic model for tests: repeats its request word by word, without delay.

    ``PipelineFactory({ModelProfileType.Primary: ModelProfile(name="echo")}, create=EchoPipeline)``. A word with the
    white space before it is a token and a chunk. Stop strings, ``max_tokens`` and prefix reuse work as with a model:
    the prefix shared with the previous request counts as cached.

    The profile's ``options``:

    - ``answer`` (str): the text to give, instead of the last message or the prompt.
    - ``delay_s`` (float): pause before each word.
    - ``error`` (exception) and ``error_at`` (int, 0 if not given): raised instead of the word of that index.
    - ``engine`` (str): ``"llama_cpp"`` gives it the phase spans and metrics of llama.cpp.

    Raises:
        ConfigurationError: An option is not one of these.
    """

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        """See ``nodespan.runner.Pipeline``."""
        for step in self._steps(request, cancellation, result):
            if isinstance(step, str):
                yield step
            elif step:
                _pause(step, cancellation)

    def close(self) -> None:
        """Clears the cached request."""
        self._cached = []


class AsyncEchoPipeline(_Echo):
    """``EchoPipeline`` in the asynchronous form of the contract: several requests at once, on an event loop.

    Its options are those of ``EchoPipeline`` and ``slots`` (int, 4 if not given): requests at once.
    """

    _KNOWN = _Echo._KNOWN | {"slots"}  # noqa: SLF001 of its own base

    def __init__(self, profile: ModelProfile) -> None:
        super().__init__(profile)
        self.slots: int = profile.options.get("slots", 4)

    async def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        """See ``nodespan.runner.AsyncPipeline``."""
        for step in self._steps(request, cancellation, result):
            if isinstance(step, str):
                yield step
            else:
                await asyncio.sleep(step)

    async def aclose(self) -> None:
        """Clears the cached request."""
        self._cached = []


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _pause(delay_s: float, cancellation: Cancellation) -> None:
    """Sleeps in short intervals and ends at a cancellation."""
    until = time.perf_counter() + delay_s
    while not cancellation.requested and (left := until - time.perf_counter()) > 0:
        time.sleep(min(left, 0.005))


def reset() -> None:
    """Ends what ``configure()`` and ``instrument()`` have started in this process, for a fixture of a test suite.

    Telemetry shuts down (a later ``configure()`` starts anew), the libraries are restored, and warnings that are logged
    once are logged again. OpenTelemetry's global providers stay: they can be set only once.
    """
    from nodespan.spans import announced
    from nodespan.spans.fingerprint import set_hash_key
    from nodespan.spans.log import forget_logged
    from nodespan.spans.redaction import set_redaction

    # Modules that were never imported have nothing to end, and may need libraries that are not installed.
    telemetry = sys.modules.get("nodespan.telemetry")
    if telemetry is not None and (active := telemetry.Telemetry.active()) is not None:
        active.shutdown()
    instrumentation = sys.modules.get("nodespan.instrumentation")
    if instrumentation is not None:
        instrumentation.uninstrument()
    set_redaction(None)
    set_hash_key(None)
    announced.forget()
    forget_logged()
