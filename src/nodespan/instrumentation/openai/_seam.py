"""The seams of the openai package: public methods, and what is not recorded in a version without one of them."""

from __future__ import annotations

from typing import Final

from nodespan.instrumentation._seams import Seam, Seams
from nodespan.instrumentation.openai import _patch

_MODULE: Final = "openai.resources.chat.completions"

SEAMS: Final = Seams(
    "openai 1.0 and newer",
    (
        Seam(_MODULE, "Completions", "create", _patch.create, "spans of chat completions"),
        Seam(_MODULE, "AsyncCompletions", "create", _patch.acreate, "spans of asynchronous chat completions"),
    ),
)
PARSING: Final = Seams(
    "openai with chat.completions.parse",
    (
        Seam(_MODULE, "Completions", "parse", _patch.create, "spans of parsed chat completions"),
        Seam(_MODULE, "AsyncCompletions", "parse", _patch.acreate, "spans of asynchronous parsed chat completions"),
    ),
    is_newer=True,
)
