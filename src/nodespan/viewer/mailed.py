"""One HTML file with the page, its modules and the data of some runs, which opens from disk without a network."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from nodespan import semconv
from nodespan.viewer import documents
from nodespan.viewer.conversation import MODEL_CONTENT, TOOL_CONTENT
from nodespan.viewer.conversation import messages as messages_of
from nodespan.viewer.pages import Page, hash_source, with_import_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nodespan.store import StoreReader
    from nodespan.store.records import SpanRecord

CONTENT: Final = frozenset((*MODEL_CONTENT, *TOOL_CONTENT, semconv.RETRIEVAL_QUERY, semconv.RETRIEVAL_DOCUMENTS))
"""Attributes with content: they exist only where their capture was switched on."""
REMOVED: Final = "[removed]"
_GZIP: Final = 31
_STYLES: Final = re.compile(r'<link rel="stylesheet" href="/static/([\w.-]+)">')
_SCRIPT: Final = re.compile(r'<script type="module" src="/static/([\w-]+)\.js"></script>')
_IDS: Final = frozenset(("trace_id", "span_id", "parent_span_id", "id", "parent_id", "cursor", "t0_ns"))
"""Keys whose values hold the document together; patterns are not applied to them."""


@dataclass(slots=True)
class Redaction:
    """The data that are excluded from the file.

    Attributes:
        patterns: What matches in a text is replaced by ``[removed]``.
        keeps_content: Messages, arguments and state values stay in.
        keeps_attributes: Attributes, events and links stay in.
        changed: Number of texts that patterns have changed so far.
    """

    patterns: Sequence[re.Pattern[str]] = ()
    keeps_content: bool = False
    keeps_attributes: bool = True
    changed: int = field(default=0, init=False)

    def applied(self, value: Any) -> Any:
        """The value with the patterns applied to every text in it but ids; mapping keys stay."""
        if not self.patterns:
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            pairs = cast("dict[Any, Any]", value).items()
            return {key: one if key in _IDS else self.applied(one) for key, one in pairs}
        if isinstance(value, list):
            return [self.applied(one) for one in cast("list[Any]", value)]
        return value

    def of_span(self, span: SpanRecord) -> SpanRecord:
        """A span without the excluded data."""
        if not self.keeps_content:
            attributes = {key: one for key, one in span["attributes"].items() if key not in CONTENT}
            writes = [{**write, "value": None} for write in span["writes"]]
            span = {**span, "attributes": attributes, "writes": writes}  # pyright: ignore[reportAssignmentType] a TypedDict unpacked is a dict
        return self.applied(span)

    @property
    def text(self) -> str:
        """A sentence about the excluded data, for the page."""
        if not self.keeps_attributes:
            kept = "Attributes, events, links and content are excluded"
        elif not self.keeps_content:
            kept = "Content (messages, tool arguments, state values) is excluded"
        else:
            kept = "Captured content is included"
        if not self.patterns:
            return f"{kept}; no redaction pattern was applied."
        shown = "s were" if len(self.patterns) > 1 else " was"
        return f"{kept}; {len(self.patterns)} redaction pattern{shown} applied and changed {self.changed} texts."

    def _text(self, text: str) -> str:
        found = text
        for pattern in self.patterns:
            found = pattern.sub(REMOVED, found)
        self.changed += found != text
        return found


def mailed_page(reader: StoreReader, trace_ids: Sequence[str], redaction: Redaction, page: Page | None = None) -> str:
    """The file's text.

    Args:
        reader: Of the store.
        trace_ids: Ids of the runs, or unique prefixes.
        redaction: The excluded data.
        page: Another page than the package's.

    Raises:
        StoreError: No trace or more than one matches, or the store cannot be read.
    """
    found = [documents.trace(reader, trace_id) for trace_id in dict.fromkeys(trace_ids)]
    traces = {one["trace"]["trace_id"]: one for one in found}
    for one in traces.values():
        one["conversations"] = {}  # the file has no others
        if not redaction.keeps_content:
            one["writes"] = {
                row: [{**write, "value": None} for write in writes] for row, writes in one["writes"].items()
            }
    traces = redaction.applied(traces)
    attributes = _packed(_attributes(reader, traces, redaction)) if redaction.keeps_attributes else None
    data = {
        "runs": sorted((one["trace"] for one in traces.values()), key=lambda trace: -trace["start_ns"]),
        "traces": traces,
        "has_attributes": redaction.keeps_attributes,
        "redaction": redaction.text,
    }
    return _html(page or Page(), _packed([orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)]), attributes)


def _attributes(reader: StoreReader, trace_ids: Iterable[str], redaction: Redaction) -> Iterator[bytes]:
    """The JSON document of all spans and messages, in pieces: whole it may have 100 MB."""
    yield b'{"spans":{'
    for i, trace_id in enumerate(trace_ids):
        yield b",%s:{" % orjson.dumps(trace_id) if i else b"%s:{" % orjson.dumps(trace_id)
        separator = b""
        for span in reader.iter_spans(trace_id):
            document = documents.span_document(redaction.of_span(span), "")
            yield separator + orjson.dumps(span["span_id"]) + b":" + orjson.dumps(document)
            separator = b","
        yield b"}"
    yield b'},"messages":'
    messages = None
    if redaction.keeps_content:
        messages = {trace_id: redaction.applied(messages_of(reader, trace_id)) for trace_id in trace_ids}
    yield orjson.dumps(messages) + b"}"


def _packed(pieces: Iterable[bytes]) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    return base64.b64encode(b"".join([*map(packer.compress, pieces), packer.flush()])).decode()


def _html(page: Page, data: str, attributes: str | None) -> str:
    modules = {
        name: f"data:text/javascript;base64,{base64.b64encode(page.files[f'{name}.js'][0]).decode()}"
        for name in page.modules
    }
    styles = [page.files[name][0].decode() for name in _STYLES.findall(page.source)]
    scripts = [f'import "{name}";' for name in _SCRIPT.findall(page.source)]
    html, map_text = with_import_map(page.source, modules)
    held = f'<script type="application/json" id="data" data-encoding="gzip">{data}</script>'
    if attributes is not None:
        held += f'<script type="application/json" id="attributes" data-encoding="gzip">{attributes}</script>'
    html = _STYLES.sub(lambda found: f"<style>{page.files[found[1]][0].decode()}</style>", html)
    html = _SCRIPT.sub(lambda found: f'{held}<script type="module">import "{found[1]}";</script>', html)
    hashes = " ".join(map(hash_source, (map_text, *scripts)))
    style_hashes = " ".join(map(hash_source, styles))
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes} data:",  # the modules; browsers do not look for hashes of what a module imports
            f"style-src {style_hashes}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return html.replace("<head>", f"<head>\n{meta}", 1)
