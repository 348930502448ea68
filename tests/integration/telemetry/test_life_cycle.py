"""A process that is configured, shut down and configured again: all signals, open spans, threads, forks, exits."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodespan.errors import ConfigurationError
from nodespan.spans.scope import get_tracer
from nodespan.store import open_store
from nodespan.telemetry import Telemetry, configure
from otlp_receiver import OtlpReceiver

TRACER = trace.get_tracer("module")


@pytest.mark.parametrize("round_trips", [2, 3])
def test_each_configuration_of_a_process_records(round_trips):
    for number in range(round_trips):
        with configure(service_name=f"service {number}") as telemetry:
            with TRACER.start_as_current_span(f"span {number}"):
                get_tracer().start_span("own").end()
            report = telemetry.force_flush()
            assert (report.ended, report.stored, report.dropped) == (2, 2, {})


THREE_SIGNALS = """
import logging, sys, nodespan
from opentelemetry import _logs, metrics, trace
tracer, logger = trace.get_tracer("module"), _logs.get_logger("module")
counter = metrics.get_meter("module").create_counter("module.count")
gauge = metrics.get_meter("module").create_observable_gauge("module.gauge", [lambda _: [metrics.Observation(7)]])
for name, endpoint in (("one", sys.argv[1]), ("two", sys.argv[2])):
    with nodespan.configure(service_name=name, endpoint=endpoint):
        tracer.start_span(f"span {name}").end()
        counter.add(1, {"by": name})
        logger.emit(body=f"log {name}")
        logging.getLogger("nodespan").warning("warning %s", name)
    tracer.start_span("between").end()
    counter.add(100, {"by": "between"})
    logger.emit(body="log between")
"""


def test_objects_created_before_use_the_new_configuration_for_all_signals(run_python):
    with OtlpReceiver() as first, OtlpReceiver() as second:
        done = run_python(THREE_SIGNALS, first.endpoint, second.endpoint)
        assert (done.stderr, done.returncode) == ("warning one\nwarning two\n", 0)
        for receiver, name in ((first, "one"), (second, "two")):
            assert [(span.name, span.service_name) for span in receiver.spans] == [(f"span {name}", name)]
            sums = [metric.sum for metric in receiver.metrics if metric.name == "module.count"]
            points = [point for each in sums for point in each.data_points]
            assert [(point.as_int, point.attributes[0].value.string_value) for point in points] == [(1, name)]
            assert "module.gauge" in {metric.name for metric in receiver.metrics}
            bodies = [record.body.string_value for record in receiver.log_records]
            assert sorted(bodies) == [f"log {name}", f"warning {name}"]


def test_between_shutdown_and_configure_nothing_records():
    exporter = InMemorySpanExporter()
    with configure():
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    span = TRACER.start_span("between")
    assert not span.is_recording()
    assert not span.get_span_context().is_valid
    span.end()
    own = get_tracer().start_span("between too")
    assert not own.is_recording()
    own.end()
    assert exporter.get_finished_spans() == ()
    with configure() as telemetry:
        TRACER.start_span("after").end()
        assert telemetry.force_flush().ended == 1
    assert [span.name for span in exporter.get_finished_spans()] == ["after"]


def test_there_is_one_provider_an_instance_of_the_sdk_s():
    with configure():
        first = trace.get_tracer_provider()
    with configure(service_name="other"):
        assert trace.get_tracer_provider() is first
        assert isinstance(first, TracerProvider)
        assert first.resource.attributes["service.name"] == "other"
    assert Telemetry.active() is None


def test_an_open_span_ends_under_the_configuration_that_it_started_with():
    first = configure(service_name="first")
    span, own = TRACER.start_span("open"), get_tracer().start_span("own")
    first.shutdown()
    with configure(service_name="second") as second:
        for one in (span, own):
            one.end()
        TRACER.start_span("new").end()
        assert second.force_flush().ended == 1
    assert span.resource.attributes["service.name"] == "first"
    assert first.force_flush().dropped == {"already_shutdown": 2}


def test_a_processor_of_the_program_receives_spans_of_each_configuration():
    exporter = InMemorySpanExporter()
    with configure():
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        TRACER.start_span("one").end()
    with configure():
        get_tracer().start_span("two").end()
    assert [span.name for span in exporter.get_finished_spans()] == ["one", "two"]


def test_a_sampler_limits_and_the_switch_are_read_by_each_configuration(monkeypatch):
    ended = []
    variants: list[dict[str, str]] = [
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1"},
        {"OTEL_SDK_DISABLED": "true"},
        {},
    ]
    for variables in variants:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with configure() as telemetry:
                span = get_tracer().start_span("a", attributes={"a": 1, "b": 2})
                size = len(span.attributes) if span.is_recording() else None
                span.end()
                ended.append((telemetry.force_flush().ended, size))
    assert ended == [(0, None), (1, 1), (0, None), (1, 2)]


def test_values_recorded_during_a_new_configuration_are_counted():
    stop = threading.Event()
    made = [0] * 4

    def record(number: int) -> None:
        while not stop.is_set():
            span = TRACER.start_span("busy")
            made[number] += span.is_recording()
            span.end()
            time.sleep(0)

    threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    telemetries = []
    for number in range(3):
        telemetries.append(configure(service_name=str(number)))
        telemetries[-1].shutdown()
    stop.set()
    for thread in threads:
        thread.join()
    assert sum(telemetry.force_flush().ended for telemetry in telemetries) == sum(made)


def test_the_same_settings_with_a_new_hook_return_the_same_object_and_use_the_hook():
    first = configure(service_name="nb", redact=lambda text: text.upper())
    again = configure(service_name="nb", redact=lambda text: text.lower())
    assert again is first
    assert again.redact is not None
    assert again.redact("A") == "a"


def test_other_settings_are_an_error_that_names_the_difference_without_a_credential():
    configure(service_name="a", headers={"authorization": "secret one"})
    with pytest.raises(ConfigurationError) as raised:
        configure(service_name="b", headers={"authorization": "secret two"})
    assert "service_name='a', now 'b'" in str(raised.value)
    assert "headers" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_child_that_is_forked_after_a_second_configuration_records(run_python):
    done = run_python(
        """
        import os, nodespan
        from opentelemetry import trace
        with nodespan.configure("first"): pass
        telemetry = nodespan.configure("second")
        tracer = trace.get_tracer("x")
        if not (child := os.fork()):
            tracer.start_span("child").end()
            report = telemetry.force_flush(5)
            os._exit(0 if (report.ended, report.stored) == (1, 1) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


PHASES = {
    "never": "",
    "configured": "nodespan.configure()",
    "shut down": "nodespan.configure().shutdown()",
    "configured again": "nodespan.configure().shutdown(); nodespan.configure('b')",
    "with an open span": "nodespan.configure(); span = trace.get_tracer('x').start_span('open')",
    "ended spans": "nodespan.configure(); [trace.get_tracer('x').start_span('s').end() for _ in range(50)]",
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_process_can_exit_in_every_phase(run_python, phase):
    done = run_python(f"import nodespan\nfrom opentelemetry import trace\n{PHASES[phase]}")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_generations_running_at_exit_end_before_telemetry_and_are_stored(run_python):
    """The factory's module is imported before configure(): by the order of atexit it would end too late."""
    done = run_python(
        """
        import time, nodespan
        from nodespan import PipelineFactory, Runner, ModelProfile, ModelProfileType, GenerationRequest
        from nodespan.testing import EchoPipeline
        telemetry = nodespan.configure("exits")
        factory = PipelineFactory(
            {ModelProfileType.Primary: ModelProfile(name="echo", options={"delay_s": 0.05})}, create=EchoPipeline
        )
        streams = [
            Runner(factory).stream_pipeline(GenerationRequest(prompt="a b c " * 100)) for _ in range(5)
        ]
        next(iter(streams[0]))
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    store = open_store()
    assert store.stats().spans >= 5
    store.close()


def exporting_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "nodespan"))}


@pytest.mark.parametrize("variable", ["NODESPAN_RUNNING_AFTER_MS", "NODESPAN_STORE_MAX_BYTES", "NODESPAN_HASH_KEY"])
def test_a_failed_configuration_leaves_no_thread_or_handler(variable, monkeypatch):
    with OtlpReceiver() as receiver:
        before = exporting_threads()
        handlers = list(logging.getLogger("nodespan").handlers)
        with monkeypatch.context() as patch:
            patch.setenv(variable, "x")
            with pytest.raises(ConfigurationError):
                configure(endpoint=receiver.endpoint)
        assert exporting_threads() == before
        assert logging.getLogger("nodespan").handlers == handlers
        assert not TRACER.start_span("half").is_recording()
        with configure(endpoint=receiver.endpoint) as telemetry:
            TRACER.start_span("whole").end()
            assert telemetry.force_flush().exported == 1


def test_a_child_that_is_forked_during_a_shutdown_of_another_thread_can_exit(run_python):
    with OtlpReceiver() as receiver:
        receiver.delay_s = 3.0
        done = run_python(
            """
            import os, sys, threading, time, nodespan
            from opentelemetry import trace
            telemetry = nodespan.configure(endpoint=sys.argv[1])
            trace.get_tracer("x").start_span("waits").end()
            thread = threading.Thread(target=telemetry.shutdown)
            thread.start()
            children = []
            while thread.is_alive():
                if not (child := os.fork()):
                    sys.exit(0)
                children.append(child)
                time.sleep(0.1)
            left, deadline = set(children), time.monotonic() + 20
            while left and time.monotonic() < deadline:
                left -= {child for child in left if os.waitpid(child, os.WNOHANG) != (0, 0)}
                time.sleep(0.02)
            print(len(children) > 3, len(left))
            for child in left:
                os.kill(child, 9)
            """,
            receiver.endpoint,
        )
    assert done.stdout.split() == ["True", "0"]


def test_telemetry_that_was_shut_down_stays_so_in_a_forked_child(run_python):
    done = run_python(
        """
        import os, threading, nodespan
        from opentelemetry import trace
        first = nodespan.configure("first")
        span = trace.get_tracer("x").start_span("open")
        first.shutdown()
        if not (child := os.fork()):
            span.end()
            report = first.force_flush(2)
            os._exit(report.stored or threading.active_count() - 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_a_span_starts_the_threads_that_an_earlier_one_could_not_start(run_python):
    with OtlpReceiver() as receiver:
        done = run_python(
            """
            import sys, threading, nodespan
            from opentelemetry import trace
            telemetry = nodespan.configure(endpoint=sys.argv[1])
            tracer = trace.get_tracer("x")
            threading.stack_size(1 << 46)  # more than there is: "can't start new thread"
            tracer.start_span("without a thread").end()
            threading.stack_size(0)
            tracer.start_span("with threads").end()
            print(telemetry.force_flush(10).exported)
            """,
            receiver.endpoint,
        )
    assert done.stdout.strip() == "2"
    assert done.stderr.count("nodespan failed to") == 1


def test_without_any_thread_shutdown_stores_all_spans_and_releases_the_store(run_python):
    done = run_python(
        """
        import threading, nodespan
        from opentelemetry import trace
        telemetry = nodespan.configure(endpoint="http://127.0.0.1:9")
        threading.stack_size(1 << 46)
        trace.get_tracer("x").start_span("without a thread").end()
        report = telemetry.shutdown()
        print(report.stored, report.waiting)
        """
    )
    assert done.stdout.strip() == "1 1"
    assert done.stderr.count("nodespan failed to") == 1
    assert "were not exported" in done.stderr
