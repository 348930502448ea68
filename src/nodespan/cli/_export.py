"""`nodespan export`: traces as OTLP JSON."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO

from nodespan.cli._traces import open_reader
from nodespan.errors import ConfigurationError
from nodespan.otlp import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

_SHOWN_EVERY: Final = 100


def export_traces(console: Console, prefixes: Sequence[str], output: Path | None, *, as_json: bool) -> None:
    """Writes one document, a batch at a time, so that a store of any size fits into memory.

    Args:
        console: For progress and the summary.
        prefixes: How the traces' ids begin; without any, all.
        output: A file; ``None`` is standard output.
        as_json: The summary of a file is JSON.
    """
    batches = open_reader().iter_batches(prefixes)
    resources = (resource for data, trace_ids in batches for resource in to_json(data, trace_ids))
    first = next(resources, None)  # a trace that is not there is an error before anything is written
    try:
        opened = nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--output {output} cannot be written: {error.strerror}.") from error
    with opened as file:
        spans = _write(file, first, _with_progress(console, resources) if output is not None else resources)
    if output is None:
        return
    if as_json:
        from nodespan.cli._app import print_json

        print_json({"path": str(output), "spans": spans})
    else:
        console.print(f"{spans} spans are in {output}.", soft_wrap=True)


def _with_progress(console: Console, resources: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, resource in enumerate(resources, 2):
        if console.is_terminal and number % _SHOWN_EVERY == 0:
            console.print(f"{number} batches", style="dim", end="\r")
        yield resource


def _write(file: TextIO, first: dict[str, Any] | None, others: Iterator[dict[str, Any]]) -> int:
    spans = 0
    file.write('{"resourceSpans": [')
    resource, separator = first, "\n"
    while resource is not None:
        file.write(separator)
        json.dump(resource, file)
        spans += sum(len(scope["spans"]) for scope in resource["scopeSpans"])
        resource, separator = next(others, None), ",\n"
    file.write("\n]}\n")
    return spans
