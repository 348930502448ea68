"""The routes of the viewer."""

from __future__ import annotations

from dataclasses import replace
from secrets import compare_digest
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from nodespan.errors import ConfigurationError, StoreBusyError, StoreError
from nodespan.store import parse_cursor
from nodespan.viewer import conversation, deltas, documents
from nodespan.viewer.answers import document, failure
from nodespan.viewer.gate import RECEIVER_PATH, Gate
from nodespan.viewer.live import events as stream
from nodespan.viewer.query import NS_DIGITS, filter_of, limit_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import QueryParams
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from nodespan.store import StoreReader
    from nodespan.viewer.live import Live, Step
    from nodespan.viewer.pages import Page
    from nodespan.viewer.receiver import Receiver
    from nodespan.viewer.settings import ViewerSettings

_SESSION_MAX_BYTES: Final = 4096


def create_app(
    reader: StoreReader, page: Page, settings: ViewerSettings, live: Live, receiver: Receiver | None
) -> ASGIApp:
    """The viewer as an ASGI application.

    Args:
        reader: Of the store.
        page: Served as it is.
        settings: Address and access.
        live: Follows the store.
        receiver: Stores received spans; ``None``: spans are not accepted.
    """
    pages = _Pages(page, settings)

    def runs(request: Request) -> Any:
        return documents.runs(reader, filter_of(request.query_params), limit_of(request.query_params))

    def trace(request: Request) -> Any:
        return documents.trace(reader, request.path_params["trace_id"])

    def span(request: Request) -> Any:
        return documents.span(reader, **request.path_params, jaeger_url=settings.jaeger_url)

    def messages(request: Request) -> Any:
        return conversation.messages(reader, request.path_params["trace_id"])

    async def events(request: Request) -> Response:
        query = request.query_params
        cursor = request.headers.get("last-event-id") or query.get("cursor") or await run_in_threadpool(reader.cursor)
        try:
            parse_cursor(cursor)
            data_of = _data_of(reader, query)
        except (ConfigurationError, StoreError) as error:
            return failure(400, str(error))
        return StreamingResponse(stream(live, cursor, data_of), media_type="text/event-stream")

    app = Starlette(
        routes=[
            Route("/", pages.index),
            Route("/runs.json", _reading(runs)),
            Route("/trace/{trace_id}.json", _reading(trace)),
            Route("/trace/{trace_id}/span/{span_id}.json", _reading(span)),
            Route("/trace/{trace_id}/messages.json", _reading(messages)),
            Route("/events", events),
            Route("/trace/{trace_id}", pages.index),
            Route("/static/{name}", pages.file),
            Route("/session", pages.session, methods=["POST"]),
            *([] if receiver is None else [Route(RECEIVER_PATH, receiver.receive, methods=["POST"])]),
        ],
        exception_handlers={404: _missing, 405: _missing},
    )
    return Gate(app, settings, page.policy)


class _Pages:
    """Page and files, which need no cookie, and the exchange of the token for one."""

    def __init__(self, page: Page, settings: ViewerSettings) -> None:
        self._page = page
        self._settings = settings

    async def index(self, request: Request) -> Response:
        """The page; its script reads the URL."""
        del request
        return Response(self._page.html, media_type="text/html; charset=utf-8")

    async def file(self, request: Request) -> Response:
        """A file of the page: a name in a table, never a path."""
        found = self._page.files.get(request.path_params["name"])
        return failure(404, "There is no such file.") if found is None else Response(found[0], media_type=found[1])

    async def session(self, request: Request) -> Response:
        """Exchanges the token for the cookie."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _SESSION_MAX_BYTES:
                return failure(413, "The request is too large.")
        try:
            token: Any = orjson.loads(body)["token"]
        except (ValueError, KeyError, TypeError):
            token = None
        if not isinstance(token, str) or not compare_digest(token.encode(), self._settings.token.encode()):
            return failure(401, "The token is wrong. Open the address that nodespan ui printed last.")
        answer = Response(status_code=204)
        answer.set_cookie(self._settings.cookie, self._settings.session, httponly=True, samesite="strict", path="/")
        return answer


def _reading(work: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """An endpoint that reads the store; Starlette calls it in a thread."""

    def answer(request: Request) -> Response:
        try:
            return document(work(request))
        except ConfigurationError as error:
            return failure(400, str(error))
        except StoreBusyError as error:
            return failure(503, str(error))
        except StoreError as error:
            return failure(404, str(error))

    return answer


def _data_of(reader: StoreReader, query: QueryParams) -> Callable[[Step], Any]:
    """The data of a step for one page: the changes of a trace, or of a list."""
    if (trace_id := query.get("trace")) is not None:
        t0 = query.get("t0", "")
        t0_ns = int(t0) if t0.isascii() and t0.isdecimal() and len(t0) <= NS_DIGITS else None
        return lambda step: deltas.of_trace(reader, *step, trace_id.lower(), t0_ns)
    trace_filter = replace(filter_of(query), before=None)
    return lambda step: deltas.of_list(step[0], trace_filter)


async def _missing(request: Request, error: Exception) -> Response:
    del request
    return failure(getattr(error, "status_code", 404), "There is no such page.")
