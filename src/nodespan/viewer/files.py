"""Files of traces: what ``nodespan export`` and a collector's file exporter write, and copies of a store."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson
from google.protobuf.message import DecodeError

from nodespan.errors import ConfigurationError
from nodespan.otlp import check_spans, from_json, keys_of, without

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from nodespan.store import SqliteStore

_SQLITE: Final = b"SQLite format 3\x00"
_GZIP: Final = b"\x1f\x8b"


@dataclass(slots=True)
class Loaded:
    """The part of a file that was read.

    Attributes:
        spans: Number of spans that are in the store now.
        rejected: Number of invalid ones.
        reason: Why the first of them is invalid.
    """

    spans: int = 0
    rejected: int = 0
    reason: str = ""


def is_store(path: Path) -> bool:
    """Whether the file is a copy of a store, by its header.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return _head(path).startswith(_SQLITE)


def load(path: Path, store: SqliteStore) -> Iterator[Loaded]:
    """Stores the spans of a file, line by line; yields the part that was read after each line.

    Args:
        path: OTLP JSON: one document a line, or one in all; may be packed with gzip.
        store: Stores each span once.

    Raises:
        ConfigurationError: The file cannot be read, or has another form.
    """
    loaded = Loaded()
    known: set[tuple[str, str]] = set()
    opened = gzip.open if _head(path).startswith(_GZIP) else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                is_whole = number > 1 or line.rstrip().endswith(b"}")
                document = line if is_whole else line + file.read()
                if not document.strip():
                    continue
                received = check_spans(_request(path, number, document))
                keys = keys_of(received.request)
                for batch in without(received.request, known):
                    store.append(batch, None)
                    loaded.spans += batch.spans
                known |= keys
                loaded.rejected += received.rejected
                loaded.reason = loaded.reason or received.reason
                yield loaded
    except (OSError, EOFError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error


def _request(path: Path, number: int, line: bytes) -> ExportTraceServiceRequest:
    try:
        return from_json(orjson.loads(line))
    except (orjson.JSONDecodeError, DecodeError) as error:
        raise ConfigurationError(
            f"Line {number} of {path} is not OTLP JSON: {error}. Give a file of nodespan export, of a collector's file "
            "exporter, or a copy of a store (nodespan export --store)."
        ) from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
