"""Signal handlers, which run inside whatever the main thread does."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("call", ["force_flush", "shutdown"])
def test_a_handler_that_ends_telemetry_inside_a_call_of_the_store_does_not_deadlock(call, run_python):
    done = run_python(
        f"""
        import faulthandler, signal, nodespan
        from opentelemetry import trace
        faulthandler.dump_traceback_later(20, exit=True)
        telemetry = nodespan.configure()
        reports = []
        signal.signal(signal.SIGUSR1, lambda *_: reports.append(telemetry.{call}(1.0)))
        trace.get_tracer("x").start_span("work").end()
        telemetry.store.database.read(lambda connection: signal.raise_signal(signal.SIGUSR1))
        print(reports[0].ended, telemetry.force_flush().ended)
        """
    )
    assert (done.stdout.strip(), done.returncode) == ("1 1", 0), done.stderr


@pytest.mark.extended
def test_many_handlers_that_flush_inside_a_flush_end_and_counts_are_exact(run_python):
    done = run_python(
        """
        import faulthandler, signal, time, nodespan
        from opentelemetry import trace
        faulthandler.dump_traceback_later(30, exit=True)
        telemetry = nodespan.configure(endpoint="http://127.0.0.1:9")
        tracer = trace.get_tracer("x")
        made, is_inside = 0, False

        def flush(*_):
            global made, is_inside
            if not is_inside:  # a handler that interrupts itself is the program's own affair
                is_inside = True
                tracer.start_span("in a handler").end()
                telemetry.force_flush(0)
                made += 1
                is_inside = False

        signal.signal(signal.SIGALRM, flush)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        in_main, deadline = 0, time.monotonic() + 4
        while time.monotonic() < deadline:
            tracer.start_span("in main").end()
            in_main += 1
            telemetry.force_flush(0.002)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(telemetry.force_flush(0.5).ended == made + in_main > 100)
        """
    )
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr[-3000:]
