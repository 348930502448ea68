"""Runs as files: what `nodespan ui FILE` opens, and the one page that `nodespan export --html` writes."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from batches import encoded, span, trace_id, write
from nodespan import semconv
from nodespan.errors import ConfigurationError
from nodespan.otlp import Encoded, to_json
from nodespan.store import SqliteStore, StoreReader
from nodespan.viewer.files import is_store, load
from nodespan.viewer.mailed import Redaction, mailed_page
from running import until
from viewer_process import ViewerProcess

CANARY = "CANARY-4711"


def lines(*batches: Encoded) -> str:
    return "".join(json.dumps({"resourceSpans": to_json(batch.data)}) + "\n" for batch in batches)


def loaded(path: Path, tmp_path: Path) -> list[str]:
    store = SqliteStore(tmp_path / "loaded.db")
    for _ in load(path, store):
        pass
    with StoreReader(store) as reader:
        found = [one["name"] for trace in reader.find() for one in reader.get(trace["trace_id"])["spans"]]
    store.close()
    return sorted(found)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_of_lines_or_of_one_document_is_read(tmp_path: Path, indent: int | None, is_packed: bool) -> None:
    path = tmp_path / "spans.jsonl"
    batches = encoded(span(1, 0, 1, 2), span(1, 1, 1, 2)), encoded(span(2, 0, 1, 2))
    text = lines(*batches)
    if indent:
        resources = [one for line in text.splitlines() for one in json.loads(line)["resourceSpans"]]
        text = json.dumps({"resourceSpans": resources}, indent=indent)
    path.write_bytes(gzip.compress(text.encode()) if is_packed else text.encode())
    assert loaded(path, tmp_path) == ["span 0 of 1", "span 0 of 2", "span 1 of 1"]


def test_a_span_twice_in_a_file_is_shown_once_and_other_signals_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    other = json.dumps({"resourceLogs": [{"scopeLogs": []}]}) + "\n\n"
    path.write_text(lines(encoded(span(1, 0, 1, 2))) + other + lines(encoded(span(1, 0, 1, 2), span(1, 1, 1, 2))))
    assert loaded(path, tmp_path) == ["span 0 of 1", "span 1 of 1"]


@pytest.mark.parametrize(
    "content",
    [b"no json\n", b"\xff\xfe", b"[1]\n", b'{"resourceSpans": 7}\n', gzip.compress(b"{}", mtime=0)[:-5]],
    ids=["text", "bytes", "list", "number", "cut gzip"],
)
def test_the_error_for_another_file_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"other\.txt"):
        loaded(path, tmp_path)


def test_the_command_rejects_a_file_without_spans(tmp_path: Path, cli: Any) -> None:
    path = tmp_path / "other.txt"
    path.write_text("no json\n")
    done = cli("ui", str(path), "--port", "0")
    assert (done.code, "other.txt" in done.err) == (1, True)


def test_the_viewer_opens_an_exported_file_and_rejects_spans(tmp_path: Path, store: SqliteStore, cli: Any) -> None:
    write(store, span(1, 0, 1, 2), span(1, 1, 1, 2))
    path = tmp_path / "export.jsonl"
    assert cli("export", "-o", str(path)).code == 0
    write(store, span(2, 0, 1, 2))  # not in the file
    with ViewerProcess(str(path), "--port", "0") as viewer:
        until(
            lambda: [(one["name"], one["spans"]) for one in viewer.client.get("/runs.json").json()["traces"]],
            [("span 0 of 1", 2)],
        )
        assert viewer.client.post("/v1/traces", headers={"content-type": "application/json"}).status_code == 404


def test_the_viewer_opens_a_copy_of_a_store(tmp_path: Path, store: SqliteStore, cli: Any) -> None:
    write(store, span(1, 0, 1, 2))
    path = tmp_path / "copy.db"
    assert cli("export", "--store", str(path)).code == 0
    assert is_store(path)
    with ViewerProcess(str(path), "--port", "0") as viewer:
        assert [one["name"] for one in viewer.client.get("/runs.json").json()["traces"]] == ["span 0 of 1"]


def test_a_trace_is_opened_by_its_id(store: SqliteStore, cli: Any) -> None:
    write(store, span(1, 0, 1, 2))
    with ViewerProcess(trace_id(1), "--port", "0") as viewer:
        assert viewer.address == f"{viewer.base}/trace/{trace_id(1)}#token={viewer.token}"
    done = cli("ui", "no-such-thing", "--port", "0")
    assert (done.code, "neither a file nor a trace ID" in done.err) == (1, True)


def held(html: str, element: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{element}" data-encoding="gzip">([^<]*)</script>', html)
    return None if found is None else json.loads(zlib.decompress(base64.b64decode(found[1]), 31))


def content_span(number: int = 0) -> Any:
    one = span(1, number, 1, 2, workflow=f"mail {CANARY}")
    one.attributes.add(key=semconv.INPUT_MESSAGES).value.string_value = json.dumps(
        [{"role": "user", "parts": [{"type": "text", "content": f"secret {CANARY}"}]}]
    )
    one.attributes.add(key="note").value.string_value = f"</script><script>alert(1)</script> {CANARY}"
    one.name = f"run {CANARY}"
    return one


def page_of(store: SqliteStore, redaction: Redaction) -> str:
    with StoreReader(store) as reader:
        return mailed_page(reader, [trace_id(1)], redaction)


def test_the_page_holds_documents_and_spans_without_content(store: SqliteStore) -> None:
    write(store, content_span(), span(1, 1, 1, 2))
    html = page_of(store, Redaction())
    data, attributes = held(html, "data"), held(html, "attributes")
    assert [trace["trace_id"] for trace in data["runs"]] == [trace_id(1)]
    assert data["traces"][trace_id(1)]["spans"]["n"] == 2
    spans = attributes["spans"][trace_id(1)]
    assert sorted(spans) == [f"{1001:016x}", f"{1002:016x}"]
    assert spans[f"{1001:016x}"]["attributes"]["note"].startswith("</script>")
    assert semconv.INPUT_MESSAGES not in spans[f"{1001:016x}"]["attributes"]
    assert (attributes["messages"], data["has_attributes"]) == (None, True)
    assert data["redaction"] == (
        "Content (messages, tool arguments, state values) is excluded; no redaction pattern was applied."
    )
    assert "alert(1)" not in html


def test_content_is_included_on_request(store: SqliteStore) -> None:
    write(store, content_span())
    html = page_of(store, Redaction(keeps_content=True))
    attributes = held(html, "attributes")
    assert CANARY in attributes["spans"][trace_id(1)][f"{1001:016x}"]["attributes"][semconv.INPUT_MESSAGES]
    assert [item["text"] for item in attributes["messages"][trace_id(1)]["items"]] == [f"secret {CANARY}"]
    assert held(html, "data")["redaction"].startswith("Captured content is included")


@pytest.mark.parametrize("keeps_content", [False, True])
def test_patterns_are_applied_to_every_text_and_counted(store: SqliteStore, keeps_content: bool) -> None:
    one = content_span()
    one.status.message = f"failed {CANARY}"
    event = one.events.add(name=f"event {CANARY}")
    event.attributes.add(key="exception.message").value.string_value = CANARY
    listed = one.attributes.add(key="list").value.array_value
    listed.values.add().string_value = CANARY
    write(store, one, service=f"service {CANARY}")
    html = page_of(store, Redaction([re.compile("CANARY-[0-9]+")], keeps_content=keeps_content))
    data, attributes = held(html, "data"), held(html, "attributes")
    assert CANARY not in json.dumps([data, attributes])
    assert data["traces"][trace_id(1)]["trace"]["name"] == "run [removed]"
    assert re.search(r"1 redaction pattern was applied and changed \d+ texts", data["redaction"])
    assert int(re.search(r"changed (\d+)", data["redaction"])[1]) >= 10  # type: ignore[index]


def test_the_file_has_no_attributes_without_the_option(store: SqliteStore) -> None:
    write(store, content_span())
    html = page_of(store, Redaction(keeps_attributes=False))
    assert held(html, "attributes") is None
    data = held(html, "data")
    assert data["has_attributes"] is False
    assert "secret" not in json.dumps(data)
    assert "are excluded" in data["redaction"]


def test_the_command_writes_the_page_and_reports_its_content(tmp_path: Path, store: SqliteStore, cli: Any) -> None:
    write(store, content_span())
    path = tmp_path / "run.html"
    done = cli("export", "--html", trace_id(1), "-o", str(path), "--redact", "CANARY-[0-9]+")
    assert done.code == 0, done.err
    assert "1 redaction pattern was applied" in done.err
    assert CANARY not in json.dumps(held(path.read_text(), "data"))
    for wrong, reason in (
        (["--html", trace_id(1)], "--output FILE"),
        (["--html", "-o", str(path)], "IDs of traces"),
        (["--content", trace_id(1)], "require --html"),
        (["--html", trace_id(1), "-o", str(path), "--redact", "("], "not a regular expression"),
        (["--html", "ff", "-o", str(path)], "No trace"),
        (["--html", trace_id(1), "-o", str(tmp_path / "none" / "x.html")], "cannot be written"),
    ):
        failed = cli("export", *wrong)
        assert failed.code in (1, 2)
        assert reason in re.sub(r"\s+", " ", failed.err.replace("│", " ")), (wrong, failed.err)


def large(store: SqliteStore, spans: int) -> None:
    chance = random.Random(0)
    for first in range(0, spans, 500):
        made = []
        for number in range(first, min(first + 500, spans)):
            one = span(1, number, 0, 0, workflow="mail", node=f"node {number % 40}")
            one.span_id = chance.randbytes(8)
            one.parent_span_id = made[-1].span_id if made else b""
            one.name = f"invoke_node node {number % 40}"
            one.start_time_unix_nano = 10**18 + number * 1_000_000 + chance.randrange(1_000_000)
            one.end_time_unix_nano = one.start_time_unix_nano + chance.randrange(10**9)
            for i in range(10):
                one.attributes.add(key=f"app.number_{i}").value.double_value = chance.random()
            made.append(one)
        write(store, *made)


@pytest.mark.extended
@pytest.mark.timeout(400)
def test_a_hundred_thousand_spans_have_5_mb_without_attributes_and_30_mb_with_them(store: SqliteStore) -> None:
    large(store, 100_000)
    html = page_of(store, Redaction(keeps_attributes=False))
    assert len(html) <= 5_000_000
    assert held(html, "data")["traces"][trace_id(1)]["spans"]["n"] == 100_000
    html = page_of(store, Redaction())
    assert len(html) <= 30_000_000
    assert len(held(html, "attributes")["spans"][trace_id(1)]) == 100_000
