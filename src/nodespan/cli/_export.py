"""`nodespan export`: traces as OTLP JSON lines, or a copy of the store."""

from __future__ import annotations

import json
import re
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO

from nodespan.cli._output import print_json
from nodespan.cli._traces import open_reader
from nodespan.cli._ui import require_viewer
from nodespan.errors import ConfigurationError
from nodespan.otlp import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nodespan.cli._output import Console

_SHOWN_EVERY: Final = 100


def export_traces(console: Console, prefixes: Sequence[str], output: Path | None, *, as_json: bool) -> None:
    """Writes one line per batch, each a separate document, so that memory is bounded for a store of any size.

    Args:
        console: For progress and the summary.
        prefixes: Prefixes of the traces' ids; without any, all.
        output: A file; ``None`` is standard output.
        as_json: Print the summary of a file as JSON.
    """
    with open_reader() as reader:
        batches = reader.iter_batches(prefixes)
        documents = (document for data, trace_ids in batches if (document := to_json(data, trace_ids)))
        first = next(documents, None)  # an unknown trace is an error before anything is written
        try:
            opened = nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--output {output} cannot be written: {error.strerror}.") from error
        with opened as file:
            spans = _write(file, first, documents if output is None else _with_progress(console, documents))
    if output is not None:
        _report(console, output, spans, as_json=as_json)


def copy_store(console: Console, path: Path, *, as_json: bool) -> None:
    """Writes a copy of the store into a new file, while programs write to the store."""
    with open_reader() as reader:
        spans = reader.status()["spans"]
        reader.copy_to(path)
    _report(console, path, spans, as_json=as_json)


def export_page(
    console: Console,
    prefixes: Sequence[str],
    output: Path,
    patterns: Sequence[str],
    *,
    keeps_content: bool,
    keeps_attributes: bool,
    as_json: bool,
) -> None:
    """Writes traces as one HTML file that opens from disk.

    Args:
        console: For the summary.
        prefixes: Prefixes of the traces' ids, at least one.
        output: The file.
        patterns: Regular expressions; what matches in a text is removed.
        keeps_content: Messages, tool arguments and state values stay in.
        keeps_attributes: Attributes, events and links stay in.
        as_json: Print the summary as JSON.

    Raises:
        ConfigurationError: The extra is not installed, a pattern is wrong, or the file cannot be written.
    """
    require_viewer()
    from nodespan.viewer.mailed import Redaction, mailed_page

    redaction = Redaction([_compiled(text) for text in patterns], keeps_content, keeps_attributes)
    with open_reader() as reader:
        text = mailed_page(reader, prefixes, redaction)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--output {output} cannot be written: {error.strerror}.") from error
    if as_json:
        print_json({"path": str(output), "size_bytes": output.stat().st_size, "redaction": redaction.text})
    else:
        console.print(f"Wrote {output} ({len(text) / 2**20:.1f} MiB). {redaction.text}", soft_wrap=True)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"--redact {pattern!r} is not a regular expression: {error}.") from error


def _report(console: Console, path: Path, spans: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(path), "spans": spans})
    else:
        console.print(f"Wrote {spans} spans to {path}.", soft_wrap=True)


def _with_progress(console: Console, documents: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    for number, document in enumerate(documents, 2):
        if number % _SHOWN_EVERY == 0:
            console.progress(f"{number} batches")
        yield document


def _write(file: TextIO, first: list[dict[str, Any]] | None, others: Iterator[list[dict[str, Any]]]) -> int:
    spans = 0
    resources = first
    while resources is not None:
        file.write(json.dumps({"resourceSpans": resources}) + "\n")
        spans += sum(len(scope["spans"]) for resource in resources for scope in resource["scopeSpans"])
        resources = next(others, None)
    return spans
