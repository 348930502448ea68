"""OpenAICompatiblePipeline: a model behind servers with OpenAI's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nodespan import semconv
from nodespan.engine.openai_compatible.bodies import body_of, path_of
from nodespan.engine.openai_compatible.dialects import DIALECTS
from nodespan.engine.openai_compatible.endpoints import (
    Endpoints,
    api_key_of,
    endpoints_of,
    is_private,
    propagates_to,
    secrets_of,
)
from nodespan.engine.openai_compatible.json_values import as_count, as_object
from nodespan.engine.openai_compatible.probe import probe
from nodespan.engine.openai_compatible.readers import OllamaReader, Reader
from nodespan.engine.openai_compatible.tls import ssl_context
from nodespan.engine.openai_compatible.wire import chunks_of, objects, read_error
from nodespan.errors import ConfigurationError, MissingDependencyError, ServerError
from nodespan.types import UNKNOWN_PROVIDER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx

    from nodespan.engine.contract import Cancellation, GenerationResult, Server
    from nodespan.engine.openai_compatible.endpoints import Endpoint
    from nodespan.types import GenerationRequest, ModelProfile

_ATTEMPTS: Final = 3
_PAUSE_S: Final = 0.25
"""Before the second attempt; twice as long before the third."""
_RETRIED: Final = frozenset({429, 502, 503, 504})
_CONNECT_S: Final = 5.0
_WRITE_S: Final = 60.0
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OpenAICompatiblePipeline:
    """Runs a ``ModelProfile`` with a ``base_url`` on its servers, several requests at once.

    The dialect is probed once, at the first use of the model, without credentials and only on this machine or in a
    private network. An attempt is repeated, on the next server if there are several, only before the first byte of an
    answer. Leaving a stream closes its connection, which frees the server's slot.

    Attributes:
        slots: ``max_concurrency`` of the profile, else the slots of the servers.

    Raises:
        ConfigurationError: The profile has no address, or an invalid one.
        MissingDependencyError: httpx is not installed.
        httpx.TransportError: None of the servers can be reached.
    """

    def __init__(self, profile: ModelProfile) -> None:
        self.check_profile(profile)
        self._profile = profile
        self._endpoints = Endpoints(endpoints_of(profile))
        self._api_key = api_key_of(profile)
        self._secrets = secrets_of(profile, self._api_key)
        self._verify = ssl_context(profile.verify, self._endpoints.all)
        self._is_private = all(is_private(endpoint.server.address) for endpoint in self._endpoints.all)
        named = None if profile.dialect is None else DIALECTS[profile.dialect]
        self._dialect, slots, self._context_size = probe(self._endpoints.all, self._verify, named)
        self.slots: int = profile.max_concurrency or (slots or self._dialect.slots) * len(self._endpoints.all)
        self._client: httpx.AsyncClient | None = None
        _import_backend()

    @staticmethod
    def check_profile(profile: ModelProfile) -> None:
        """Raises for an invalid profile, without a request to its servers."""
        if importlib.util.find_spec("httpx") is None:
            raise MissingDependencyError("OpenAICompatiblePipeline", "nodespan[http]")
        endpoints_of(profile)
        if not profile.name:
            raise ConfigurationError(
                "This ModelProfile has a base_url and no name. Give the model's name on the server: "
                "ModelProfile(base_url=..., name='...')."
            )

    @staticmethod
    def server_of(profile: ModelProfile) -> Server:
        """The first of the servers."""
        return endpoints_of(profile)[0].server

    async def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        """See ``nodespan.runner.AsyncPipeline``."""
        import httpx

        self._describe(result)
        began_at = time.perf_counter()
        tried: list[Endpoint] = []
        while True:
            endpoint = self._endpoints.choose(tried)
            tried.append(endpoint)
            reader = self._reader(result)
            pieces: list[str] = []
            answer: httpx.Response | None = None
            try:
                async with (
                    self._open(endpoint, request, result) as answer,
                    contextlib.aclosing(chunks_of(answer)) as chunks,
                    contextlib.aclosing(objects(chunks, self._secrets)) as events,
                ):
                    async for event in events:
                        if text := reader.read(event):
                            pieces.append(text)
                            yield text
                        if cancellation.requested:
                            return
                if not reader.is_complete:
                    raise ServerError("The server ended the connection before its answer was complete.")
            except (httpx.TransportError, ServerError) as error:
                if isinstance(error, httpx.TransportError):
                    self._endpoints.failed(endpoint)
                has_begun = answer is not None and answer.num_bytes_downloaded > 0
                if has_begun or len(tried) >= _ATTEMPTS or not _may_repeat(error):
                    raise
                await asyncio.sleep(0 if self._has_another(tried) else _PAUSE_S * len(tried))
                continue
            finally:
                reader.finish(began_at)
            await self._count(endpoint, request, "".join(pieces), result)
            return

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _describe(self, result: GenerationResult) -> None:
        result.context_size = self._context_size
        result.attributes[semconv.SERVER_DIALECT] = self._dialect.name
        if self._profile.provider == UNKNOWN_PROVIDER or not self._profile.base_url:
            result.provider = self._dialect.provider

    def _reader(self, result: GenerationResult) -> Reader:
        make = OllamaReader if self._dialect.is_native else Reader
        return make(result, time.perf_counter())

    def _has_another(self, tried: list[Endpoint]) -> bool:
        return len(set(map(id, tried))) < len(self._endpoints.all)

    @contextlib.asynccontextmanager
    async def _open(
        self, endpoint: Endpoint, request: GenerationRequest, result: GenerationResult
    ) -> AsyncGenerator[httpx.Response]:
        """Sends a request; the response is closed, and so the connection if it was not read to its end."""
        result.attributes |= {
            semconv.SERVER_ADDRESS: endpoint.server.address,
            semconv.SERVER_PORT: endpoint.server.port,
        }
        url = (endpoint.root_url if self._dialect.is_native else endpoint.base_url) + path_of(request, self._dialect)
        body = body_of(self._profile, request, self._dialect)
        endpoint.busy += 1
        try:
            async with self._http().stream("POST", url, json=body, headers=self._headers(endpoint)) as response:
                if not response.is_success:
                    raise await read_error(response, self._secrets)
                yield response
        finally:
            endpoint.busy -= 1

    def _headers(self, endpoint: Endpoint) -> dict[str, str]:
        headers = {"Accept": "text/event-stream, application/x-ndjson", **self._profile.headers}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        if propagates_to(endpoint.server.address):
            _PROPAGATOR.inject(headers)
        return headers

    def _http(self) -> httpx.AsyncClient:
        """The client, made on the event loop that uses it."""
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                verify=self._verify,
                timeout=httpx.Timeout(None, connect=_CONNECT_S, write=_WRITE_S),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.slots),
                follow_redirects=False,
                trust_env=not self._is_private,  # addresses in a private network are not requested through a proxy
            )
        return self._client

    async def _count(self, endpoint: Endpoint, request: GenerationRequest, text: str, result: GenerationResult) -> None:
        """Counts the tokens of the texts where the server reports none of the generation; marks them as estimated."""
        if not self._dialect.counts_by_request or result.output_tokens is not None:
            return
        prompt = request.prompt or "".join(message.content for message in request.messages)
        result.input_tokens = await self._tokens(endpoint, prompt)
        result.output_tokens = await self._tokens(endpoint, text)
        result.tokens_estimated = True

    async def _tokens(self, endpoint: Endpoint, text: str) -> int | None:
        import httpx

        body: dict[str, Any] = {"model": self._profile.model_name, "input": text}
        url = f"{endpoint.root_url}/extras/tokenize/count"
        try:
            response = await self._http().post(url, json=body, headers=self._headers(endpoint))
            return as_count(as_object(response.json()).get("count")) if response.is_success else None
        except (httpx.HTTPError, ValueError):
            return None


def _import_backend() -> None:
    """Imports what httpx imports at its first asynchronous request, which would block the event loop for 50 ms."""
    import anyio

    with contextlib.suppress(RuntimeError):  # a loop runs in this thread; its first request imports it
        anyio.run(anyio.sleep, 0)


def _may_repeat(error: Exception) -> bool:
    """Whether another attempt may succeed: the server was not reached, gave no answer, or was busy."""
    return not isinstance(error, ServerError) or error.status in _RETRIED
