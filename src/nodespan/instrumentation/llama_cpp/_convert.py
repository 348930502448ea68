"""Arguments and answers of llama-cpp-python as attributes and counts: pure functions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from nodespan.spans.model_call import request_attributes


def arguments(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A method's arguments by name, without ``self``; empty if they do not match, which the method then reports."""
    try:
        given = signature.bind(None, *args, **kwargs).arguments
    except TypeError:
        return {}
    return dict(list(given.items())[1:])


def request(given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a request for text, from its arguments."""
    max_tokens = given.get("max_tokens")
    sampling = {
        **given,
        "temperature": given.get("temperature", given.get("temp")),  # so ``Llama.generate`` calls it
        "max_tokens": max_tokens if max_tokens and max_tokens > 0 else None,  # others mean no limit
    }
    return request_attributes(sampling, streams=bool(given.get("stream")))


def choice(answer: object) -> Mapping[str, Any] | None:
    """The first choice of a whole answer or of a piece; ``None`` for tokens and embeddings."""
    choices = cast("Mapping[str, Any]", answer).get("choices") if isinstance(answer, Mapping) else None
    return cast("Sequence[Mapping[str, Any]]", choices)[0] if choices else None
