"""Checks of each request before the store is read: host, origin, session; and the headers of answers."""

from __future__ import annotations

from secrets import compare_digest
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser

from nodespan.viewer.answers import failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from nodespan.viewer.settings import ViewerSettings

RECEIVER_PATH: Final = "/v1/traces"
_LIVE_PATH: Final = "/events"
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_NO_STORE: Final = "no-store"


class Gate:
    """Rejects requests of other sites, of other users, and for other host names.

    Args:
        app: Answers all other requests.
        settings: Allowed hosts and the session.
        policy: The Content-Security-Policy of every answer.
    """

    def __init__(self, app: ASGIApp, settings: ViewerSettings, policy: str) -> None:
        self._app = app
        self._settings = settings
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({**_HEADERS, "Content-Security-Policy": self._policy})
                headers.setdefault("Cache-Control", _NO_STORE)
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await failure(*refused)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _name(host) not in self._settings.host_names:
            return 403, f"The host {host[:100]!r} is not allowed. Allow it: nodespan ui --allow-host NAME"
        path: str = scope["path"]
        if path == RECEIVER_PATH:
            return self._refusal_of_spans(headers)
        if (origin := headers.get("origin")) is not None and origin not in (f"http://{host}", f"https://{host}"):
            return 403, "The request comes from another site."
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_navigation(scope, headers):
            return 403, "The request comes from another site."
        if (path.endswith(".json") or path == _LIVE_PATH) and not self._has_session(headers):
            return 401, "Open the address that nodespan ui has printed; it contains the token."
        return None

    def _refusal_of_spans(self, headers: Headers) -> tuple[int, str] | None:
        """Rejects spans from web pages: browsers send one of these headers, other programs do not."""
        if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
            return 403, "Spans are not accepted from web pages."
        if not self._settings.is_loopback and not self._has_token(headers):
            return 401, "Spans from other machines need the token: OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer …'."
        return None

    def _has_session(self, headers: Headers) -> bool:
        if not self._settings.has_token:
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(self._settings.cookie, "")
        return compare_digest(cookie.encode(), self._settings.session.encode())

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and compare_digest(token.strip().encode(), self._settings.token.encode())


def _name(host: str) -> str:
    """The name in a ``Host`` header; empty if it is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    is_plain = parts.netloc == host and "@" not in host
    return (parts.hostname or "") if is_plain else ""


def _is_navigation(scope: Scope, headers: Headers) -> bool:
    """A followed link; the page itself has no secrets."""
    return (
        scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
