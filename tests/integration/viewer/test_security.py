"""Access to the viewer: host, origin, token, policy of its pages, files of the package's folder."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batches import span, write
from nodespan.errors import ConfigurationError
from nodespan.store import SqliteStore
from nodespan.viewer.pages import Page
from nodespan.viewer.settings import ViewerSettings
from viewer_process import ViewerProcess, ViewerThread

DOCUMENTS = ("/runs.json", "/trace/07.json", "/trace/07/span/08.json", "/trace/07/messages.json", "/events?cursor=a.1.")
PAGES = ("/", "/trace/07", "/?node=plan")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    """Shared: these tests change no state of the viewer."""
    opened = SqliteStore(tmp_path_factory.mktemp("store") / "store.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def viewer(store: SqliteStore) -> Iterator[ViewerThread]:
    with ViewerThread(store) as started:
        yield started


def raw(viewer: ViewerThread, target: str, headers: dict[str, str], method: str = "GET") -> tuple[int, bytes]:
    """A request as it is: httpx would make the path another one."""
    connection = http.client.HTTPConnection("127.0.0.1", int(viewer.base.rpartition(":")[2]), timeout=10)
    try:
        connection.putrequest(method, target, skip_host="host" in headers)
        for name, value in headers.items():
            for each in value if isinstance(value, list) else [value]:
                connection.putheader(name, each)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", [*DOCUMENTS, *PAGES, "/static/main.js", "/v1/traces", "/session"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7433", "127.0.0.1.evil.example", "localhost@evil.example", "127.0.0.1:x", ""]
)
def test_a_request_for_another_host_is_refused(viewer: ViewerThread, path: str, host: str) -> None:
    cookie = f"{viewer.settings.cookie}={viewer.settings.session}"
    assert raw(viewer, path, {"host": host, "cookie": cookie})[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9000", "[::1]", "[::1]:80"])
def test_the_names_of_this_machine_are_allowed(viewer: ViewerThread, host: str) -> None:
    assert raw(viewer, "/", {"host": host})[0] == 200


def test_two_hosts_are_refused(viewer: ViewerThread) -> None:
    assert raw(viewer, "/", {"host": ["localhost", "evil.example"]})[0] in (400, 403)  # type: ignore[dict-item]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_document_needs_the_cookie(viewer: ViewerThread, path: str) -> None:
    stranger = viewer.new_client()
    answer = stranger.get(path)
    assert (answer.status_code, answer.json().keys()) == (401, {"error"})
    cookies = (
        (viewer.settings.cookie, ""),
        (viewer.settings.cookie, viewer.token),
        ("nodespan", viewer.settings.session),
    )
    for name, value in cookies:
        assert stranger.get(path, headers={"cookie": f"{name}={value}"}).status_code == 401


def test_the_token_is_exchanged_for_an_http_only_same_site_cookie(viewer: ViewerThread) -> None:
    client = viewer.new_client()
    answer = client.post("/session", json={"token": viewer.token})
    assert answer.status_code == 204
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert name == f"nodespan-{viewer.settings.port}"
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in rest.split(";")[1:]}
    assert viewer.token not in rest
    assert client.get("/runs.json").status_code == 200


@pytest.mark.parametrize("cookie", ['{"a": "b"}', "a=b; c", 'x="; y=1', "=; =", "é=1"])
def test_cookies_of_other_programs_do_not_hide_ours(viewer: ViewerThread, cookie: str) -> None:
    ours = f"{viewer.settings.cookie}={viewer.settings.session}"
    headers = {"cookie": f"{cookie}; {ours}".encode().decode("latin-1")}
    assert raw(viewer, "/runs.json", headers)[0] == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b'{"token": 7}', b'{"token": ""}', b'{"token": "\xc3\xa9"}', b"[" * 4000]
)
def test_a_wrong_token_gives_no_cookie(viewer: ViewerThread, content: bytes) -> None:
    answer = viewer.new_client().post("/session", content=content)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_the_body_of_a_session_is_bounded(viewer: ViewerThread) -> None:
    assert viewer.new_client().post("/session", content=b"x" * 5000).status_code == 413


@pytest.mark.parametrize("path", [*DOCUMENTS, "/session", "/", "/static/page.css"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_a_request_of_another_site_is_refused(viewer: ViewerThread, path: str, headers: dict[str, str]) -> None:
    method = "POST" if path == "/session" else "GET"
    assert viewer.client.request(method, path, headers=headers).status_code == 403


def test_a_link_on_another_site_opens_the_page_only(viewer: ViewerThread) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert viewer.new_client().get("/trace/07", headers=headers).status_code == 200
    assert viewer.new_client().get("/runs.json", headers=headers).status_code == 401


def test_the_own_origin_is_allowed(viewer: ViewerThread) -> None:
    headers = {"origin": viewer.base, "sec-fetch-site": "same-origin"}
    assert viewer.client.get("/runs.json", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/index.html%00.js",
        "/static/",
        "/static",
        "/../viewer/app.py",
        "//etc/passwd",
        "/static/....//app.py",
        "/static/types.d.ts",
    ],
)
def test_only_files_of_the_table_are_served(viewer: ViewerThread, target: str) -> None:
    status, content = raw(viewer, target, {})
    assert status == 404
    assert b"create_app" not in content
    assert b"root:" not in content


def test_every_answer_has_the_headers(viewer: ViewerThread) -> None:
    for path in ("/", "/runs.json", "/static/none.js", "/none", "/trace/ff.json"):
        headers = viewer.client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    refused = viewer.client.get("/", headers={"host": "evil.example"}).headers
    assert "default-src 'self'" in refused["content-security-policy"]


def test_the_only_inline_script_is_the_import_map_whose_hash_is_in_the_policy(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<script type="importmap">{"imports": {}}</script><script type="module" src="/static/main.js"></script>'
    )
    (tmp_path / "main.js").write_text('import "other";')
    (tmp_path / "other.js").write_text("")
    (tmp_path / "types.d.ts").write_text("")
    page = Page(tmp_path)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page.html)
    assert [(kind, bool(text)) for kind, text in scripts] == [
        (' type="importmap"', True),
        (' type="module" src="/static/main.js"', False),
    ]
    text = scripts[0][1]
    assert json.loads(text) == {"imports": {"main": "/static/main.js", "other": "/static/other.js"}}
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}'" in page.policy


def test_names_of_spans_are_never_html(viewer: ViewerThread, store: SqliteStore) -> None:
    canary = "<script>alert(1)</script>\u202e\x1b[31m](javascript:alert(1))"
    one = span(7, 0, 1, 2)
    one.name = canary
    write(store, one)
    answer = viewer.client.get("/runs.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["traces"][0]["name"] == canary
    missing = viewer.client.get("/trace/<script>alert(1)</script>.json")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
    page = viewer.client.get("/trace/<script>alert(1)</script>")
    assert "alert" not in page.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_other_methods_are_refused(viewer: ViewerThread, method: str) -> None:
    for path in ("/", "/runs.json", "/trace/07.json"):
        assert viewer.client.request(method, path).status_code == 405
    assert viewer.client.get("/v1/traces").status_code == 405


def test_without_a_token_documents_are_open_on_loopback(store: SqliteStore) -> None:
    with ViewerThread(store, has_token=False) as viewer:
        assert viewer.new_client().get("/runs.json").status_code == 200
        assert viewer.new_client().get("/runs.json", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "192.0.2.1", "has_token": False}, "--no-token is for loopback only"),
        ({"host": "0.0.0.0"}, "--allow-host NAME"),
        ({"host": "::"}, "--allow-host NAME"),
    ],
)
def test_beyond_loopback_a_token_and_a_host_name_are_required(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ViewerSettings(**options)  # type: ignore[arg-type]


def test_spans_from_other_machines_need_the_token(store: SqliteStore) -> None:
    # 127.0.0.1 is reachable in both cases; only the settings differ.
    with ViewerThread(store) as viewer:
        pass
    with ViewerThread(store, host="0.0.0.0", allowed_hosts=frozenset({"box.example"})) as viewer:
        client = viewer.new_client(headers={"host": "box.example", "content-type": "application/x-protobuf"})
        assert client.post("/v1/traces").status_code == 401
        assert client.post("/v1/traces", headers={"authorization": "Bearer no"}).status_code == 401
        bearer = {"authorization": f"Bearer {viewer.token}"}
        assert client.post("/v1/traces", headers=bearer).status_code == 200
        assert client.get("/runs.json", headers=bearer).status_code == 401


def test_requests_are_not_printed_and_the_token_is_only_in_the_address() -> None:
    with ViewerProcess("--port", "0") as viewer:
        assert viewer.address == f"{viewer.base}/#token={viewer.token}"
        for path in ("/runs.json?user=secret-user", f"/?token={viewer.token}", "/none"):
            viewer.client.get(path)
    assert (viewer.out, viewer.err) == ("", "")
