"""The phase of a generation on a real model, read by another process, also after a kill."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from nodespan.store import SqliteStore, StoreReader, TraceFilter, store_path

PATIENCE_S = 90
PROGRAM = """
import asyncio, sys
import nodespan
from nodespan import ModelProfile, ModelProfileType, PipelineFactory, Runner
from nodespan.types import GenerationRequest, Sampling

nodespan.configure("phases")
kind, model = sys.argv[1:]
prompt = "word " * (7_000 if kind == "prefilling" else 5)
profile = ModelProfile(model_path=model, n_ctx=8192, n_threads=1, sampling=Sampling(max_tokens=4_000, seed=1))
factory = PipelineFactory({ModelProfileType.Primary: profile})

async def ask():
    request = GenerationRequest(prompt=prompt)
    async for _ in Runner(factory).stream_pipeline(request):
        pass

async def main():
    await asyncio.gather(*(ask() for _ in range(3)))

asyncio.run(main())
"""


def phases(reader: StoreReader, state: str) -> list[dict]:
    """Phases of the spans in this state."""
    spans = [
        span for found in reader.find(TraceFilter(is_running=True)) for span in reader.get(found["trace_id"])["spans"]
    ]
    return [span["phase"] for span in spans if span["state"] == state and span["phase"] is not None]


@pytest.mark.parametrize("kind", [pytest.param("prefilling", marks=pytest.mark.extended), "decoding"])
def test_the_phase_of_a_process_killed_in_a_generation_is_stored_and_shown(kind, smollm2, tmp_path, cli):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with (
        (tmp_path / "errors").open("w+") as errors,
        subprocess.Popen([sys.executable, str(program), kind, str(smollm2)], stderr=errors) as process,
        StoreReader(SqliteStore(store_path())) as reader,
    ):
        try:
            deadline = time.monotonic() + PATIENCE_S
            seen: set[str] = set()
            while True:
                now = phases(reader, "running")
                seen |= {phase["name"] for phase in now}
                reached = [phase for phase in now if phase["name"] == kind and (phase["done"] or 0) > 0]
                waiting = sorted(phase["position"] for phase in now if phase["name"] == "queued")
                if reached and waiting == [1, 2]:
                    break
                assert process.poll() is None, (tmp_path / "errors").read_text()
                assert time.monotonic() < deadline, f"last seen: {now}, in all: {seen}"
                time.sleep(0.02)
        finally:
            process.kill()
    lost = {phase["name"]: phase for phase in phases(reader, "lost")}
    assert lost.keys() == {kind, "queued"}
    assert lost[kind]["done"] >= reached[0]["done"]
    if kind == "prefilling":
        assert 7_000 <= lost[kind]["total"] <= 7_100
        assert lost[kind]["done"] < lost[kind]["total"]
    assert phases(reader, "running") == []
    lines = [line for found in reader.find() for line in cli("trace", found["trace_id"]).out.splitlines()]
    shown = [line.split("while ")[1] for line in lines if re.search(r" lost at \d\d:\d\d:\d\d while ", line)]
    percent = f" {100 * lost[kind]['done'] // (lost[kind]['total'] or 1)} % of {lost[kind]['total']} tokens"
    words = percent if kind == "prefilling" else f" {lost[kind]['done']} tokens"
    assert sorted(shown) == sorted([kind + words, "queued behind 1", "queued behind 2"])
    reader.close()
