"""For tests of programs that use nodespan: the span tree as plain data, and a pipeline that needs no model."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nodespan.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from nodespan.runner import Cancellation, GenerationResult
    from nodespan.types import GenerationRequest, ModelProfile

Tree = dict[str, Any]


def span_tree(exporter: InMemorySpanExporter, *attributes: str) -> list[Tree]:
    """The finished spans as nested dicts: name, status, chosen attributes, names of events, children by start.

    Ids and times are left out, and so is what is not there: a span that is ok, has no events and none of the chosen
    attributes is ``{"name": ...}``. A span whose parent is not among them stands at the top.

    Args:
        exporter: Holds the spans.
        attributes: Names of the attributes to show; those that end in ``*`` show all that begin so.
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


class EchoPipeline:
    """A model for tests: says back what it was asked, word by word, at once and always the same.

    ``PipelineFactory({ModelProfileType.Primary: ModelProfile(name="echo")}, create=EchoPipeline)``. A word with the
    white space before it is a token and a chunk. Stop strings, ``max_tokens`` and prefix reuse work as with a model:
    what the last request began with as well counts as cached.

    The profile's ``options`` say how it behaves:

    - ``answer`` (str): what it says, instead of the last message or the prompt.
    - ``delay_s`` (float): pause before each word.
    - ``error`` (exception) and ``error_at`` (int, 0 if not given): raised instead of the word of that index.

    Raises:
        ConfigurationError: An option is not one of these.
    """

    def __init__(self, profile: ModelProfile) -> None:
        self.check_profile(profile)
        options = profile.options
        self._profile = profile
        self._answer: str | None = options.get("answer")
        self._delay_s: float = options.get("delay_s", 0.0)
        self._error: BaseException | None = options.get("error")
        self._error_at: int = options.get("error_at", 0)
        self._cached: list[str] = []

    @staticmethod
    def check_profile(profile: ModelProfile) -> None:
        """Refuses options that it does not know."""
        known = {"answer", "delay_s", "error", "error_at"}
        if unknown := sorted(set(profile.options) - known):
            raise ConfigurationError(
                f"EchoPipeline does not know the option {', '.join(unknown)}. It knows: {', '.join(sorted(known))}."
            )

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        """See ``nodespan.runner.Pipeline``."""
        result.prefill_at = time.perf_counter()
        result.context_size = self._profile.n_ctx
        self._read_prompt(request, result)
        text, max_tokens = self._what_to_say(request)
        words = _words(text)
        result.output_tokens = result.decode_tokens = 0
        started = result.prefill_at
        for index, word in enumerate(words[:max_tokens]):
            if self._delay_s:
                _pause(self._delay_s, cancellation)
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
            yield word
        result.finish_reason = "stop" if max_tokens is None or len(words) <= max_tokens else "length"

    def close(self) -> None:
        """Forgets what it was asked."""
        self._cached = []

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

    def _what_to_say(self, request: GenerationRequest) -> tuple[str, int | None]:
        text = self._answer
        if text is None:
            text = request.prompt if request.prompt is not None else request.messages[-1].content
        ours, theirs = self._profile.sampling, request.sampling
        for stop in theirs.stop or ours.stop:
            text = text.partition(stop)[0]
        return text, theirs.max_tokens if theirs.max_tokens is not None else ours.max_tokens


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _pause(delay_s: float, cancellation: Cancellation) -> None:
    """Sleeps in slices, so that it can be woken."""
    until = time.perf_counter() + delay_s
    while not cancellation.requested and (left := until - time.perf_counter()) > 0:
        time.sleep(min(left, 0.005))


def reset() -> None:
    """Ends what ``configure()`` and ``instrument()`` have started in this process, for a fixture of a test suite.

    Telemetry shuts down (a later ``configure()`` starts anew), the libraries are restored, and warnings that are logged
    once are logged again. OpenTelemetry's global providers stay: they can be set only once.
    """
    from nodespan.instrumentation import uninstrument
    from nodespan.spans.guard import forget_reported
    from nodespan.spans.redaction import set_redaction
    from nodespan.telemetry import Telemetry

    if (telemetry := Telemetry.active()) is not None:
        telemetry.shutdown()
    uninstrument()
    set_redaction(None)
    forget_reported()
