"""`nodespan ui`: the viewer."""

from __future__ import annotations

import os
import re
import sys
import threading
import webbrowser
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from nodespan.errors import ConfigurationError, NodespanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nodespan.cli._output import Console
    from nodespan.store import SqliteStore
    from nodespan.viewer.files import Loaded

JAEGER_URL: Final = "NODESPAN_JAEGER_URL"
_NEEDED: Final = ("starlette", "uvicorn", "orjson")
_TRACE: Final = re.compile(r"[0-9a-fA-F]{1,32}")


def show_viewer(
    console: Console,
    what: str | None,
    port: int | None,
    host: str,
    allowed_hosts: Sequence[str],
    *,
    is_opened: bool,
    has_token: bool,
) -> None:
    """Serves the viewer until it is interrupted.

    Args:
        console: For the address.
        what: A trace's id or a unique prefix of it, or a file of traces.
        port: ``None``: the usual one, else the next that is free.
        host: Address to listen on.
        allowed_hosts: Further names that a ``Host`` header may have.
        is_opened: Open the browser.
        has_token: The address carries a token.

    Raises:
        ConfigurationError: An argument is wrong, or the extra is not installed.
    """
    require_viewer()
    from nodespan.viewer.listener import bind
    from nodespan.viewer.settings import ViewerSettings

    trace_id, file = _parsed(what)
    allowed = frozenset(allowed_hosts)
    jaeger_url = os.environ.get(JAEGER_URL, "").strip()
    ViewerSettings(host, port or 0, allowed, has_token=has_token)  # is wrong before a port is taken
    listener = bind(host, port)
    with listener:
        settings = ViewerSettings(host, listener.getsockname()[1], allowed, has_token=has_token, jaeger_url=jaeger_url)
        path = f"/trace/{trace_id}" if trace_id else "/"
        address = f"{settings.address}{path}" + (f"#token={settings.token}" if has_token else "")
        console.print(address, soft_wrap=True)
        sys.stdout.flush()  # a program that started the viewer reads it now
        from nodespan.store import open_store

        if is_opened:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        from nodespan.viewer.server import ViewerServer

        with ExitStack() as stack:
            store = open_store() if file is None else _store_of(file, stack)
            ViewerServer(store, settings, accepts_spans=file is None).run(listener)


def require_viewer() -> None:
    """Checks that the libraries of the viewer are installed.

    Raises:
        ConfigurationError: One is missing.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ConfigurationError(f"The viewer needs {', '.join(missing)}. Type: pip install 'nodespan[ui]'")


def _store_of(file: Path, stack: ExitStack) -> SqliteStore:
    """The store that a file is, or a temporary one that is filled from it while it is shown."""
    from nodespan.store import SqliteStore, StoreLimits
    from nodespan.viewer.files import is_store, load

    if is_store(file):
        return SqliteStore(file)
    folder = stack.enter_context(TemporaryDirectory(prefix="nodespan-ui-"))
    store = SqliteStore(Path(folder) / "nodespan.db", StoreLimits(max_bytes=2**62))
    parts = load(file, store)
    first = next(parts, None)  # a file without traces is an error before the server starts
    if first is None:
        raise ConfigurationError(f"{file} is empty.")
    threading.Thread(target=_load, args=(file, first, parts), name="nodespan-load", daemon=True).start()
    return store


def _load(file: Path, last: Loaded, parts: Iterator[Loaded]) -> None:
    from nodespan.cli._output import Console

    console = Console(stderr=True)
    try:
        for last in parts:
            console.progress(f"{last.spans} spans")
    except NodespanError as error:
        console.print(f"nodespan: {error}", soft_wrap=True)
    if last.rejected:
        console.print(f"{last.rejected} spans of {file} are invalid: {last.reason}.", soft_wrap=True)


def _parsed(what: str | None) -> tuple[str | None, Path | None]:
    """A trace's id, or a file."""
    if what is None:
        return None, None
    if Path(what).is_file():
        return None, Path(what)
    if _TRACE.fullmatch(what):
        return what.lower(), None
    raise ConfigurationError(f"{what} is neither a file nor a trace ID. List the traces: nodespan traces")
