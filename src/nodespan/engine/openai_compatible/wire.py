"""Lines of a streamed response, and the errors of a server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from nodespan.engine.openai_compatible.json_values import Object, as_count, as_object
from nodespan.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    import httpx

_MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_MAX_BODY_BYTES: Final = 64 * 1024
_SHOWN: Final = 500
"""Characters of a server's error that are kept."""


async def objects(chunks: AsyncIterator[bytes], secrets: Sequence[str]) -> AsyncGenerator[Object]:
    """The JSON objects of server-sent events or of JSON lines, as they arrive.

    Raises:
        ServerError: The server sends an error, or invalid JSON.
    """
    rest = b""
    async for chunk in chunks:
        lines = (rest + chunk if rest else chunk).split(b"\n")
        rest = lines.pop()
        if len(rest) > _MAX_LINE_BYTES:
            raise ServerError(f"The server sent a line of more than {_MAX_LINE_BYTES} bytes.")
        for line in lines:
            if (found := _object(line, secrets)) is not None:
                yield found
    if (found := _object(rest, secrets)) is not None:
        yield found


def chunks_of(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The body of a response as it arrives; to be closed by the caller."""
    return cast("AsyncGenerator[bytes]", response.aiter_bytes())


async def read_error(response: httpx.Response, secrets: Sequence[str]) -> ServerError:
    """The error of a response that is not a success; its body is cut."""
    body = b""
    async with contextlib.aclosing(chunks_of(response)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                break
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        text = _message(json.loads(text)) or text
    status = response.status_code
    if response.has_redirect_location:
        text = "Redirects are not followed. Give the address of the redirect's target."
    return ServerError(f"The server answered {status} {response.reason_phrase}: {_shown(text, secrets)}", status)


def _object(line: bytes, secrets: Sequence[str]) -> Object | None:
    if line.startswith(b"data:"):
        line = line[5:]
    elif not line.lstrip().startswith((b"{", b"error:")):  # a comment, the name of an event, nothing
        return None
    line = line.strip().removeprefix(b"error:")
    if not line or line == b"[DONE]":
        return None
    try:
        found: object = json.loads(line)
    except ValueError:
        shown = _shown(line.decode("utf-8", "replace"), secrets)
        raise ServerError(f"The server sent invalid JSON: {shown}") from None
    if not isinstance(found, Mapping):
        raise ServerError("The server sent JSON that is not an object.")
    event = cast("Object", found)
    if event.get("error"):
        status = as_count(as_object(event["error"]).get("code"))
        raise ServerError(f"The server ended its answer with an error: {_shown(_message(event), secrets)}", status)
    return event


def _message(body: object) -> str:
    """The text of an error, in the forms of OpenAI, Ollama and FastAPI."""
    answer = as_object(body)
    error = answer.get("error")
    text = as_object(error).get("message") or error or answer.get("message") or answer.get("detail")
    return text if isinstance(text, str) else "" if text is None else json.dumps(text, default=str)


def _shown(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
