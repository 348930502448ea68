"""Determines the dialect of a server by requests to it, without credentials and only in private networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from nodespan.engine.openai_compatible.dialects import (
    LLAMA_CPP_PYTHON,
    LLAMA_SERVER,
    OLLAMA,
    OPENAI,
    SGLANG,
    VLLM,
    Dialect,
)
from nodespan.engine.openai_compatible.endpoints import is_private
from nodespan.engine.openai_compatible.json_values import Object, as_count, as_object, as_text

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    import httpx

    from nodespan.engine.openai_compatible.endpoints import Endpoint

_TIMEOUT_S: Final = 5.0


class Found(NamedTuple):
    """A server's dialect and properties.

    Attributes:
        slots: Number of requests served at once.
        context_size: Tokens of one slot's context.
    """

    dialect: Dialect
    slots: int | None = None
    context_size: int | None = None


def probe(endpoints: Iterable[Endpoint], verify: ssl.SSLContext | bool, named: Dialect | None = None) -> Found:
    """Probes the first reachable server.

    Args:
        endpoints: Servers of one kind. Those outside of private networks are not probed.
        verify: As in httpx.
        named: The dialect, if the profile names one; then only the number of slots is requested.

    Raises:
        httpx.TransportError: None of those in private networks can be reached.
    """
    import httpx

    failure: httpx.TransportError | None = None
    for endpoint in endpoints:
        if not is_private(endpoint.server.address):
            return Found(named or OPENAI)
        try:
            with httpx.Client(verify=verify, timeout=_TIMEOUT_S, trust_env=False) as client:
                return _probe_one(client, endpoint.root_url, named)
        except httpx.TransportError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return Found(named or OPENAI)


def _probe_one(client: httpx.Client, root_url: str, named: Dialect | None) -> Found:
    props, server = _get(client, f"{root_url}/props")
    if named in {None, LLAMA_SERVER} and ("default_generation_settings" in props or server == "llama.cpp"):
        context = as_object(props.get("default_generation_settings")).get("n_ctx")
        return Found(LLAMA_SERVER, as_count(props.get("total_slots")) or None, as_count(context) or None)
    return Found(named or _by_paths(client, root_url))


def _by_paths(client: httpx.Client, root_url: str) -> Dialect:
    for path, key, dialect in (
        ("/api/version", "version", OLLAMA),
        ("/model_info", "model_path", SGLANG),
        ("/get_model_info", "model_path", SGLANG),  # its name before 2026
        ("/version", "version", VLLM),
    ):
        if key in _get(client, root_url + path)[0]:
            return dialect
    title = as_text(as_object(_get(client, f"{root_url}/openapi.json")[0].get("info")).get("title"))
    return LLAMA_CPP_PYTHON if "llama.cpp Python API" in title else OPENAI


def _get(client: httpx.Client, url: str) -> tuple[Object, str]:
    """The JSON object at an address, empty if there is none, and the name of the server."""
    response = client.get(url)
    server = response.headers.get("server", "")
    try:
        body: object = response.json() if response.is_success else None
    except ValueError:
        body = None
    return as_object(body), server
