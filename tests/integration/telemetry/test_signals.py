"""Signal handlers, which run inside whatever the main thread does."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("call", ["force_flush", "shutdown"])
def test_a_handler_that_ends_telemetry_inside_a_call_of_the_store_does_not_wait_for_itself(call, run_python):
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
