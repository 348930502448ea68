"""The extensions of OpenAI's protocol that each kind of server supports, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_USAGE: Final[Mapping[str, Any]] = {"include_usage": True}
_USAGE_IN_EACH_CHUNK: Final[Mapping[str, Any]] = {**_USAGE, "continuous_usage_stats": True}


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """A kind of server.

    Attributes:
        provider: ``model_provider`` of its models.
        slots: Requests at once if the server reports no number.
        fields: Fields of each request by which it reports its measurements.
        renamed: Its names of sampling values.
        counts_by_request: It reports no usage in streams; ``/extras/tokenize/count`` counts the texts.
        is_native: Requests use Ollama's own protocol, which reports times.
    """

    name: str
    provider: str
    slots: int
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    counts_by_request: bool = False
    is_native: bool = False


LLAMA_SERVER: Final = Dialect(
    "llama-server",
    "LLAMA_CPP",
    slots=4,  # its own default
    fields={"stream_options": _USAGE, "return_progress": True, "timings_per_token": True},
)
LLAMA_CPP_PYTHON: Final = Dialect("llama-cpp-python", "LLAMA_CPP", slots=1, counts_by_request=True)
"""Its server generates for one request at a time; by default a new request interrupts the previous one."""
OLLAMA: Final = Dialect("ollama", "OLLAMA", slots=4, renamed={"max_tokens": "num_predict"}, is_native=True)
VLLM: Final = Dialect(
    "vllm",
    "VLLM",
    slots=64,
    fields={"stream_options": _USAGE_IN_EACH_CHUNK},
    renamed={"repeat_penalty": "repetition_penalty"},
)
SGLANG: Final = Dialect(
    "sglang",
    "SGLANG",
    slots=64,
    fields={"stream_options": _USAGE_IN_EACH_CHUNK},
    renamed={"repeat_penalty": "repetition_penalty"},
)
OPENAI: Final = Dialect("openai", "OPENAI_COMPATIBLE", slots=8, fields={"stream_options": _USAGE})

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect for dialect in (LLAMA_SERVER, LLAMA_CPP_PYTHON, OLLAMA, VLLM, SGLANG, OPENAI)
}
