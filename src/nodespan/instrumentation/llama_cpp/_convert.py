"""Arguments and answers of llama-cpp-python as attributes and counts: pure functions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from nodespan import semconv
from nodespan.engine.contract import GenerationResult
from nodespan.spans.model_call import request_attributes

_ADDED: Final = {
    "input_tokens": semconv.USAGE_INPUT_TOKENS,
    "output_tokens": semconv.USAGE_OUTPUT_TOKENS,
    "cached_input_tokens": semconv.USAGE_CACHE_READ,
    "prompt_eval_s": semconv.MIRROR_KEYS["prompt_eval_s"],
    "decode_s": semconv.MIRROR_KEYS["decode_s"],
}
_SPEED: Final = semconv.MIRROR_KEYS["tokens_per_s"]


def arguments(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a method was given, by name, without ``self``; nothing if it does not fit, for the method to say so."""
    try:
        given = signature.bind(None, *args, **kwargs).arguments
    except TypeError:
        return {}
    return dict(list(given.items())[1:])


def request(given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a request for text, from the arguments that it was given."""
    max_tokens = given.get("max_tokens")
    sampling = {
        **given,
        "temperature": given.get("temperature", given.get("temp")),  # so ``Llama.generate`` calls it
        "max_tokens": max_tokens if max_tokens and max_tokens > 0 else None,  # others mean no limit
    }
    return request_attributes(sampling, streams=bool(given.get("stream")))


def choice(answer: object) -> Mapping[str, Any] | None:
    """What the model chose to say: of a whole answer or of a piece; ``None`` for tokens and embeddings."""
    choices = cast("Mapping[str, Any]", answer).get("choices") if isinstance(answer, Mapping) else None
    return cast("Sequence[Mapping[str, Any]]", choices)[0] if choices else None


def total(results: Sequence[GenerationResult]) -> GenerationResult:
    """One call's runs of the engine taken together."""
    if len(results) == 1:
        return results[0]
    taken = GenerationResult()
    for result in results:
        if taken.first_token_at is None:
            taken.first_token_at = result.first_token_at
        for name in ("input_tokens", "cached_input_tokens", "output_tokens", "prefill_s", "decode_s"):
            if (value := getattr(result, name)) is not None:
                setattr(taken, name, (getattr(taken, name) or 0) + value)
    return taken


def added(facts: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a call, and of those before it that the same LangChain call has made (one for each of its prompts)."""
    if semconv.USAGE_INPUT_TOKENS not in measured:
        return dict(facts)
    sums = {key: facts[key] + measured.get(name, 0) for key, name in _ADDED.items() if facts.get(key) is not None}
    if speed := facts.get("tokens_per_s"):
        decoded = measured.get(_SPEED, 0) * measured.get(_ADDED["decode_s"], 0) + speed * facts["decode_s"]
        sums["tokens_per_s"] = decoded / sums["decode_s"]
    return sums
