"""The seams of llama-cpp-python: public methods, and what is not recorded in a version without one of them."""

from __future__ import annotations

from typing import Final

from nodespan import semconv
from nodespan.instrumentation._seams import Seam, Seams
from nodespan.instrumentation.llama_cpp import _patch

_MODULE: Final = "llama_cpp.llama"

SEAMS: Final = Seams(
    "llama-cpp-python 0.3.16 and newer",
    (
        Seam(
            _MODULE, "Llama", "__call__", _patch.answers(semconv.TEXT_COMPLETION), "spans of calls of the model itself"
        ),
        Seam(_MODULE, "Llama", "create_completion", _patch.answers(semconv.TEXT_COMPLETION), "spans of completions"),
        Seam(_MODULE, "Llama", "create_chat_completion", _patch.answers(semconv.CHAT), "spans of chat completions"),
        Seam(_MODULE, "Llama", "create_embedding", _patch.create_embedding, "spans of embeddings"),
        Seam(_MODULE, "Llama", "embed", _patch.embed, "token counts of embeddings"),
        Seam(_MODULE, "Llama", "generate", _patch.generate, "token counts and times of llama.cpp"),
    ),
)
