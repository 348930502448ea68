"""Output of commands for hostile or unusual data, on unusual terminals, and when printing fails."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry import trace
from rich.text import Text

from nodespan.cli._output import Console, safe
from nodespan.store import MEMORY, SqliteStore, StoreReader
from nodespan.telemetry import configure

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp\u2066 [bold]b[/bold] [/x] :smile: \r\nspoof\x00\u2028"
COMMAND = [sys.executable, "-c", "from nodespan.cli import main; main()"]
CONTROLS = set("\x1b\x07\x9b\x00\r\u202e\u2066\u2028")
EACH_OUTPUT = pytest.mark.parametrize(
    "command",
    [
        ("traces",),
        ("traces", "--json"),
        ("export",),
        # These print by the same console as `traces`; `make test-extended` runs them.
        pytest.param(("trace", "{id}"), marks=pytest.mark.extended),
        pytest.param(("doctor",), marks=pytest.mark.extended),
    ],
)
"""A command for each way of writing to standard output: by the console, a JSON document, spans as they are read."""


def store_one(name: str = "span", **attributes: object) -> str:
    with configure(service_name=f"service {name}") as telemetry:
        span = trace.get_tracer("test").start_span(name, attributes=attributes)
        span.end()
        assert telemetry.force_flush()
    return format(span.get_span_context().trace_id, "032x")


def nodespan(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own; ``options`` are variables, or stdout."""
    stdout = options.pop("stdout", subprocess.PIPE)
    return subprocess.run(
        [*COMMAND, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **options},
        check=False,
        timeout=60,
    )


def on_a_terminal(*arguments: str, columns: int) -> str:
    """The output of a command on a terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=slave, env=environment):
        os.close(slave)
        written = b""
        try:
            while part := os.read(master, 65536):
                written += part
        except OSError:  # the other end was closed
            pass
    os.close(master)
    return written.decode()


@pytest.mark.parametrize("command", ["traces", "trace"])
def test_foreign_text_cannot_control_the_terminal(command, cli):
    trace_id = store_one(HOSTILE, **{"error.type": HOSTILE, "nodespan.status": HOSTILE})
    arguments = (command, *([trace_id] if command == "trace" else []))
    assert cli(*arguments).code == 0
    assert CONTROLS & set(cli.out) == set()
    assert "[bold]b[/bold] [/x] :smile:" in cli.out
    assert not [line for line in cli.out.splitlines() if line.startswith("spoof")]
    shown = on_a_terminal(*arguments, columns=200)
    assert "\\x1b]0;title" in shown
    assert not {"\x1b]0;title", "\x9b2J", "\u202e"} & {
        part for part in ("\x1b]0;title", "\x9b2J", "\u202e") if part in shown
    }


def test_messages_of_a_collector_and_paths_are_printed_without_markup(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("NODESPAN_STORE", str(tmp_path / "d[bold]" / "s[x].db"))
    store_one()
    assert cli("export", "-o", str(tmp_path / "run[red].json")).code == 0
    assert "run[red].json" in cli.err
    assert cli("doctor").code in {0, 1}
    assert str(tmp_path / "d[bold]" / "s[x].db") in cli.out
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1]:1")
    assert cli("flush", "--all", "--timeout", "0.2").code == 1
    assert "[::1]" in cli.out


def test_the_console_escapes_the_controls_of_any_text(capsys):
    console = Console()
    console.print(HOSTILE)
    console.print(Text.assemble((HOSTILE, "red"), HOSTILE))
    assert not CONTROLS & set(capsys.readouterr().out)


def test_safe_escapes_control_characters_only():
    assert safe("é 漢字 👩\u200d🚀 मन\u200dत") == "é 漢字 👩\u200d🚀 मन\u200dत"
    assert safe("a\tb\nc\x1bd\u202ee\ud800") == "a\\tb\\nc\\x1bd\\u202ee\\ud800"


@pytest.mark.parametrize(
    "encoding",
    # ASCII has no character that the others do not have.
    [*(pytest.param(encoding, marks=pytest.mark.extended) for encoding in ("cp1252", "latin-1")), "ascii"],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_is_not_utf_8_replaces_characters(encoding, options):
    trace_id = store_one("chat 🦙")
    for command in (("traces",), ("trace", trace_id)):
        done = nodespan(*command, *options, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        if options:
            assert "🦙" in json.dumps(json.loads(done.stdout.decode("ascii")), ensure_ascii=False)
        else:
            assert b"chat ?" in done.stdout


def test_json_has_neither_nan_nor_infinity_and_bytes_in_base64(cli):
    trace_id = store_one(loss=float("nan"), up=float("inf"), down=[float("-inf"), 1.5], raw=b"\x00\xff")
    assert cli("trace", trace_id, "--json").code == 0
    (span,) = json.loads(cli.out, parse_constant=lambda name: pytest.fail(name))
    attributes = span["attributes"]
    assert (attributes["loss"], attributes["up"], attributes["down"]) == ("NaN", "Infinity", ["-Infinity", 1.5])
    assert attributes["raw"] == "AP8="


@pytest.mark.parametrize(
    "columns", [20, *(pytest.param(columns, marks=pytest.mark.extended) for columns in (30, 40)), 80]
)
def test_the_id_is_whole_on_every_terminal(columns):
    trace_id = store_one("a rather long name of a span that does not fit")
    assert trace_id[:8] in on_a_terminal("traces", columns=columns)


@pytest.mark.parametrize(
    "arguments",
    [
        ("traces", "--since", "99999999999d"),
        ("traces", "--since", "0001-01-01"),
        ("traces", "--since", "9999-12-31T23:59"),
        ("traces", "--limit", "99999999999999999999"),
        ("traces", "--min-duration", "inf"),
        ("traces", "--min-duration", "nan"),
    ],
)
def test_a_number_beyond_64_bit_causes_no_traceback(arguments, cli):
    store_one()
    assert cli(*arguments).code in {0, 1}
    assert len(cli.err.splitlines()) <= 1


@EACH_OUTPUT
def test_a_full_disk_is_one_line_and_exit_code_1(command):
    trace_id = store_one()
    with Path("/dev/full").open("wb") as full:
        done = nodespan(*(part.format(id=trace_id) for part in command), stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"nodespan: No space left on device\n"


@EACH_OUTPUT
@pytest.mark.parametrize("length", [10, pytest.param(200_000, marks=pytest.mark.extended)])
def test_a_closed_pipe_is_exit_code_0_without_output(command, length):
    trace_id = store_one("x" * length, text="y" * length)
    read, write = os.pipe()
    os.close(read)
    done = nodespan(*(part.format(id=trace_id) for part in command), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_copy_of_the_store_is_written_while_a_program_writes(cli, tmp_path):
    with configure(service_name="busy") as telemetry:
        tracer = trace.get_tracer("test")
        tracer.start_span("before").end()
        assert telemetry.force_flush()
        assert cli("export", "--store", str(tmp_path / "copy.db")).code == 0
        assert "Wrote 1 spans" in cli.err
        tracer.start_span("after").end()
        assert telemetry.force_flush()
    assert [file.name for file in tmp_path.glob("copy.db*")] == ["copy.db"]
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with StoreReader(SqliteStore(tmp_path / "copy.db")) as reader:
        assert [found["name"] for found in reader.find()] == ["before"]
    before = (tmp_path / "copy.db").read_bytes()
    assert cli("export", "--store", str(tmp_path / "copy.db")).code == 1
    assert "copy.db cannot be written: File exists" in cli.err
    assert (tmp_path / "copy.db").read_bytes() == before
    assert cli("export", "--store", str(tmp_path / "absent" / "copy.db")).code == 1
    assert cli("export", "abc", "--store", str(tmp_path / "other.db")).code == 2


def test_a_missing_store_is_not_copied_and_not_created(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("NODESPAN_STORE", str(tmp_path / "deep" / "absent.db"))
    assert cli("traces", "--json").json == []
    assert cli("export", "--store", str(tmp_path / "copy.db")).code == 1
    assert "There is no store at" in cli.err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("NODESPAN_STORE", str(MEMORY))
    assert cli("traces", "--json").json == []
