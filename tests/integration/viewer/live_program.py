"""A program with a run of several nodes: ``python live_program.py NAME SECONDS [hang]``; prints its trace id first."""

from __future__ import annotations

import sys
import time

from opentelemetry import trace

import nodespan

NODES = 4


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    with nodespan.configure(name) as telemetry:
        tracer = trace.get_tracer("program")
        with tracer.start_as_current_span(f"run {name}") as run:
            report(f"{run.get_span_context().trace_id:032x}")
            for i in range(NODES):
                started_ns = time.time_ns()
                with tracer.start_as_current_span(f"node {i}", start_time=started_ns):
                    report(f"node {i} {started_ns}")
                    time.sleep(seconds / NODES)
            if "hang" in sys.argv:
                time.sleep(600)  # until the test kills it
        assert telemetry.force_flush()
    report("done")


if __name__ == "__main__":
    main()
