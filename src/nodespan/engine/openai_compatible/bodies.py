"""The JSON bodies of requests, in OpenAI's protocol and in Ollama's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from nodespan.engine.openai_compatible.json_values import Object, as_object
from nodespan.errors import ConfigurationError
from nodespan.types import ChatMessage

if TYPE_CHECKING:
    from nodespan.engine.openai_compatible.dialects import Dialect
    from nodespan.types import GenerationRequest, ModelProfile


def path_of(request: GenerationRequest, dialect: Dialect) -> str:
    """Path of a request: below the root for Ollama's protocol, else below the base address."""
    if dialect.is_native:
        return "/api/chat" if request.messages else "/api/generate"
    return "/chat/completions" if request.messages else "/completions"


def body_of(profile: ModelProfile, request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """Body of a streamed request. A field that the profile or the request sets to ``None`` is left out."""
    sampling = {
        dialect.renamed.get(name, name): list(cast("tuple[str, ...]", value)) if name == "stop" else value
        for name, value in request.sampling.over(profile.sampling).items()
    }
    content: dict[str, Any] = {"model": profile.model_name, "stream": True}
    if request.prompt is not None:
        content["prompt"] = request.prompt
    else:
        convert = _as_ollama if dialect.is_native else ChatMessage.as_object
        content["messages"] = [convert(message) for message in request.messages]
    given = {**profile.options, **request.arguments()}
    body = (
        _native(content, sampling, given) if dialect.is_native else {**content, **sampling, **dialect.fields, **given}
    )
    return {name: value for name, value in body.items() if value is not None}


def _native(content: dict[str, Any], sampling: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    options = given.pop("options", {})
    if "prompt" in content:
        content["raw"] = True
    given.pop("tool_choice", None)
    if (response_format := given.pop("response_format", None)) is not None:
        given["format"] = _format(response_format)
    return {**content, "options": {**sampling, **options}, **given}


def _format(response_format: Object) -> object:
    """OpenAI's ``response_format`` as Ollama's ``format``: a schema, or ``json``."""
    schema = response_format.get("schema") or as_object(response_format.get("json_schema")).get("schema")
    return schema or ("json" if response_format.get("type") in {"json_object", "json_schema"} else None)


def _as_ollama(message: ChatMessage) -> dict[str, Any]:
    """Ollama has the arguments of a tool call as an object, not as a text, and images beside the text."""
    made = message.as_object()
    if message.parts:
        made["content"] = "".join(str(part.get("text", "")) for part in message.parts)
        made["images"] = [_image(part) for part in message.parts if part.get("type") != "text"]
    if (tool_call_id := made.pop("tool_call_id", None)) is not None:
        made["tool_name"] = made.pop("name", tool_call_id)
    for call in made.get("tool_calls", ()):
        function = dict(call.get("function", {}))
        if isinstance(function.get("arguments"), str):
            function["arguments"] = json.loads(function["arguments"] or "{}")
        call["function"] = function
    return made


def _image(part: Object) -> str:
    """The base64 of an image in a data URL, which is all that Ollama reads."""
    kind, separator, data = str(as_object(part.get("image_url")).get("url")).partition(";base64,")
    if not separator or not kind.startswith("data:image/"):
        raise ConfigurationError(
            f"Ollama reads images as data URLs only; the request has a content part of type {part.get('type')!r}. "
            "Give {'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,...'}}."
        )
    return data
