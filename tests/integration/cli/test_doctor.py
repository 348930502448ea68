"""`nodespan doctor`: what it reports of llama-cpp-python, of the configuration and of destinations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from nodespan.delivery.sender_lock import STUCK_AFTER_S
from nodespan.otlp import Encoded
from nodespan.store import load_secret, open_store
from nodespan.telemetry.settings import Settings
from otlp_receiver import OtlpReceiver


def pretend(monkeypatch, tmp_path, code):
    """Puts a llama-cpp-python of our own before the installed one, for programs that are started."""
    (tmp_path / "llama_cpp.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_valid_configuration_has_no_problems(cli):
    assert cli("doctor").code == 0, cli.out
    assert "traces   to the local store\n" in cli.out
    assert "metrics  not recorded: no endpoint is set\n" in cli.out
    assert cli.out.endswith("no problem found\n")
    assert "(mode 0600)" in cli.out
    found = cli("doctor", "--json").json
    assert found["problems"] == []
    assert found["signals"]["traces"] == "to the local store"
    assert found["versions"]["llama-cpp-python"]


def test_amx_is_reported_with_the_command_to_build_without_it(cli, monkeypatch, tmp_path):
    pretend(monkeypatch, tmp_path, 'def llama_print_system_info():\n    return b"CPU : AVX512 = 1 | AMX_INT8 = 1 |"\n')
    assert cli("doctor").code == 0
    assert 'if it does: CMAKE_ARGS="-DGGML_NATIVE=OFF' in cli.out
    assert "--no-binary llama-cpp-python" in cli.out
    (hint,) = cli("doctor", "--json").json["hints"]
    assert "AMX" in hint


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ('raise OSError("libllama.so: cannot open")\n', "cannot be loaded: OSError: libllama.so: cannot open"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n", "cannot be loaded: exit code -4"),
    ],
)
def test_a_llama_cpp_that_cannot_be_loaded_is_a_problem(cli, monkeypatch, tmp_path, code, says):
    pretend(monkeypatch, tmp_path, code)
    assert cli("doctor").code == 1
    assert says in cli.out
    assert "pip install --force-reinstall" in cli.out


def test_a_destination_is_contacted_and_headers_are_not_shown(cli, monkeypatch):
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
        assert cli("doctor").code == 0, cli.out
        assert f"traces   http/protobuf to {receiver.endpoint}/v1/traces\n" in cli.out
        assert "the destination answers" in cli.out
        assert "OTEL_EXPORTER_OTLP_HEADERS=(set)" in cli.out
        assert "secret" not in cli.out
    assert cli("doctor").code == 1
    assert f"{receiver.endpoint}/v1/traces does not accept spans" in cli.out


def test_an_invalid_variable_is_a_problem(cli, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318")
    assert cli("doctor").code == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is not a valid URL: 'localhost:4318'" in cli.out


@pytest.mark.parametrize(
    ("variables", "reported"),
    [
        ({"OTEL_BSP_SCHEDULE_DELAY": "abc"}, "OTEL_BSP_SCHEDULE_DELAY"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OTEL_BSP_MAX_QUEUE_SIZE"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, "OTEL_METRIC_EXPORT_INTERVAL"),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ({"OTEL_SDK_DISABLED": "true"}, "nothing is recorded"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "does not support"),
        ({"OTEL_CONFIG_FILE": "x.yaml"}, "OTEL_CONFIG_FILE"),
    ],
)
def test_each_variable_that_has_no_effect_is_a_problem(cli, monkeypatch, variables, reported):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli("doctor").code == 1
    assert reported in cli.out


@pytest.mark.parametrize("status", [401, 404])
def test_a_destination_that_rejects_every_request_is_a_problem(cli, monkeypatch, status):
    with OtlpReceiver() as receiver:
        receiver.answers.extend([(status, {}, b"no route [/v1/traces] here")] * 2)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        assert cli("doctor").code == 1
        assert f"{status} no route [/v1/traces] here" in cli.out


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("signal", ["metrics", "logs"])
def test_a_dead_destination_of_one_signal_is_a_problem(cli, monkeypatch, protocol, signal):
    with OtlpReceiver(protocol) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        assert cli("doctor").code == 0, cli.out
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "http://127.0.0.1:1/v1/other")
        assert cli("doctor").code == 1
        assert f"http://127.0.0.1:1/v1/other does not accept {signal}" in cli.out
        assert "does not accept spans" not in cli.out


def test_a_response_of_the_proxy_is_reported(cli, monkeypatch):
    with OtlpReceiver() as proxy:
        proxy.answers.extend([(403, {}, b"blocked by proxy")] * 3)
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318")
        assert cli("doctor").code == 1
        assert "403 blocked by proxy" in cli.out


def test_a_password_in_the_endpoint_is_not_shown(cli, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:s3cr3t@127.0.0.1:1/?api-key=s3cr3t")
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    for command in (["doctor"], ["doctor", "--json"], ["flush", "--timeout", "0.1"], ["flush", "--list"]):
        cli(*command)
        assert "s3cr3t" not in cli.out + cli.err, command


HOLDER = """
import sys, time
from pathlib import Path
from nodespan.delivery.sender_lock import SenderLock
assert SenderLock(Path(sys.argv[1]), sys.argv[2]).acquire()
print("holds", flush=True)
time.sleep(60)  # until it is killed
"""


def test_a_sender_without_progress_is_reported_with_its_process_id(cli, monkeypatch):
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        destination = Settings().destination()
        store = open_store()
        identity = destination.identity(load_secret(store.path))
        store.append(Encoded(b"", 3), identity, label=destination.label)
        store.close()
        command = [sys.executable, "-c", HOLDER, str(store.path), identity]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            holder.stdout.readline()
            os.kill(holder.pid, signal.SIGSTOP)
            assert cli("doctor").code == 0, cli.out
            assert cli("flush", "--timeout", "0.1").code == 1
            assert f"3 spans still wait: process {holder.pid} is sending them" in cli.out
            assert "no progress" not in cli.out
            idle_since = time.time() - STUCK_AFTER_S - 5
            os.utime(store.path.with_name(f"{store.path.name}.locks") / f"{identity}.lock", (idle_since, idle_since))
            assert cli("doctor").code == 1
            assert f"Process {holder.pid} is the sender" in cli.out
            assert "no progress for 6" in cli.out
            assert cli("flush", "--timeout", "0.1").code == 1
            assert f"process {holder.pid} is sending them and has made no progress for 6" in cli.out
            holder.kill()


def test_spans_of_another_destination_are_a_problem(cli, monkeypatch):
    with OtlpReceiver() as receiver:
        store = open_store()
        store.append(Encoded(b"", 3), "0123456789abcdef", label="http://before:4318/v1/traces")
        store.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        assert cli("doctor").code == 1
        assert "3 spans wait for http://before:4318/v1/traces, or for other credentials of it" in cli.out
        assert "nodespan flush --from 01234567\n" in cli.out


@pytest.mark.parametrize(("name", "value"), [("OTEL_PROPAGATORS", "b3"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc")])
def test_a_variable_that_is_read_by_an_import_is_a_problem(monkeypatch, name, value):
    """In a process of its own: here the modules are imported already."""
    monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", "from nodespan.cli import main; main()", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{name} is {value!r}" in done.stdout
