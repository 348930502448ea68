"""`nodespan export`: traces as OTLP JSON lines, or a copy of the store."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO

from nodespan.cli._output import print_json
from nodespan.cli._traces import open_reader
from nodespan.errors import ConfigurationError
from nodespan.otlp import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nodespan.cli._output import Console

_SHOWN_EVERY: Final = 100


def export_traces(console: Console, prefixes: Sequence[str], output: Path | None, *, as_json: bool) -> None:
    """Writes one line per batch, each a document of its own, so that a store of any size fits into memory.

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
