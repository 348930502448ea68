"""The Runner on the real model: streams, stopping, the event loop, bad input, other threads, forks, exits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llama_cpp
from nodespan.errors import DeadlineExceededError, MissingDependencyError, ModelLoadError
from nodespan.runner import LlamaCppPipeline, PipelineFactory, PipelineStream, Runner
from nodespan.testing import span_tree
from nodespan.types import Chunk, ModelProfile, ModelProfileType
from pipelines import chat, raw, wait_for

STORY = "Once upon a time there was a ship, and the sea around it was blue and wide and"
LONG = STORY * 100  # 1,700 tokens: seconds of prefill
ONE_THREAD: Any = {"n_threads_batch": 1}
ONE_BATCH = 2048  # of tokens: a prefill in one call, which ends early only if it is aborted


@pytest.fixture(scope="module")
def factory(smollm2: Path) -> Iterator[PipelineFactory]:
    profile = ModelProfile(model_path=smollm2, n_ctx=2048, n_batch=ONE_BATCH, options=ONE_THREAD)
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        yield factory


@pytest.fixture
def runner(factory: PipelineFactory, tracer_provider: TracerProvider) -> Runner:
    return Runner(factory, tracer_provider=tracer_provider)


@pytest.fixture(scope="module")
def fresh_text(smollm2: Path) -> str:
    """The answer of a newly loaded model."""
    with closing(llama_cpp.Llama(str(smollm2), n_ctx=2048, verbose=False, **ONE_THREAD)) as llama:
        answer: Any = llama.create_chat_completion(
            [{"role": "user", "content": "What is the sea?"}], seed=4, max_tokens=12
        )
        return answer["choices"][0]["message"]["content"]


def ask_again(runner: Runner) -> str:
    with runner.stream_pipeline(chat("What is the sea?", seed=4, max_tokens=12)) as stream:
        return "".join(chunk.content for chunk in stream)


def test_a_generation_is_one_span_with_its_measured_children(runner: Runner, exporter: InMemorySpanExporter) -> None:
    list(runner.stream_pipeline(chat("What is a ship?", seed=4, max_tokens=12)))
    (tree,) = span_tree(exporter)
    assert tree["name"] == "chat SmolLM2-135M-Instruct.Q4_1"
    names = [child["name"] for child in tree["children"]]
    assert [name for name in names if name != "pipeline.load"] == [
        "pipeline.queue",
        "llama_cpp.prefill",
        "llama_cpp.decode",
    ]


def test_the_metadata_have_all_measurements(runner: Runner) -> None:
    stream = runner.stream_pipeline(chat("What is a ship?", seed=4, max_tokens=12))
    text = "".join(chunk.content for chunk in stream)
    metadata = stream.metadata
    assert text
    assert metadata is not None
    assert (metadata.model_name, metadata.model_provider) == ("SmolLM2-135M-Instruct.Q4_1", "LLAMA_CPP")
    assert (metadata.pipeline_type, metadata.finish_reason) == ("LlamaCppPipeline", "length")
    assert (metadata.input_tokens, metadata.output_tokens) == (35, 12)
    assert metadata.decode_s is not None
    assert metadata.tokens_per_s == pytest.approx(11 / metadata.decode_s)
    assert metadata.time_to_first_token_s is not None
    assert metadata.prompt_eval_s is not None
    assert metadata.time_to_first_token_s > metadata.prompt_eval_s


def test_closing_early_stops_within_one_token(runner: Runner, fresh_text: str) -> None:
    with runner.stream_pipeline(raw(STORY, seed=4, max_tokens=1000)) as stream:
        for chunk in stream:
            if chunk.index == 3:
                break
        stream._generation.drop()
        sampled = stream._generation.result.output_tokens or 0
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "cancelled"
    assert stream.metadata.output_tokens is not None
    assert stream.metadata.output_tokens <= sampled + 1
    assert ask_again(runner) == fresh_text


def assert_stopped_in_the_prefill(stream: PipelineStream, reason: str = "cancelled") -> None:
    assert stream.metadata is not None
    assert (stream.metadata.finish_reason, stream.metadata.output_tokens) == (reason, 0)


def test_closing_during_the_prefill_stops_it_at_once(runner: Runner, fresh_text: str) -> None:
    stream = runner.stream_pipeline(raw(LONG, seed=4))
    wait_for(lambda: stream._generation.result.prefill_at is not None)
    time.sleep(0.1)  # so that llama.cpp is in the midst of it
    stream.close()
    assert_stopped_in_the_prefill(stream)
    assert ask_again(runner) == fresh_text


async def test_cancelling_during_the_prefill_stops_it_at_once(runner: Runner, fresh_text: str) -> None:
    stream = runner.stream_pipeline(raw(LONG, seed=4))
    await asyncio.to_thread(wait_for, lambda: stream._generation.result.prefill_at is not None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.1)
    await stream.aclose()
    assert_stopped_in_the_prefill(stream)
    assert await asyncio.to_thread(ask_again, runner) == fresh_text


def test_a_deadline_during_the_prefill_stops_it(runner: Runner, fresh_text: str) -> None:
    ask_again(runner)  # so that it is loaded
    stream = runner.stream_pipeline(raw(LONG, seed=4), deadline_s=0.2)
    with pytest.raises(DeadlineExceededError):
        next(stream)
    assert_stopped_in_the_prefill(stream, "error")
    assert ask_again(runner) == fresh_text


def test_a_deadline_during_the_decode_is_raised_after_earlier_chunks(runner: Runner) -> None:
    chunks: list[Chunk] = []
    for deadline_s in (0.5, 2.0, 8.0):  # until there was time to begin
        stream = runner.stream_pipeline(raw(STORY, temperature=0.0, max_tokens=1500), deadline_s=deadline_s)
        with pytest.raises(DeadlineExceededError):
            for chunk in stream:
                chunks.append(chunk)
        if chunks:
            break
    assert chunks
    assert stream.metadata is not None
    assert stream.metadata.output_tokens is not None
    assert stream.metadata.output_tokens - len(chunks) <= 1


def test_a_prompt_longer_than_the_context_raises_the_error_of_llama_cpp(
    runner: Runner, exporter: InMemorySpanExporter, fresh_text: str
) -> None:
    with pytest.raises(ValueError, match=r"^Requested tokens \(\d+\) exceed context window of 2048$"):
        list(runner.stream_pipeline(raw(LONG * 2, seed=4)))
    (span,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert span.status.status_code.name == "ERROR"
    assert "exceed context window" in (span.status.description or "")
    assert ask_again(runner) == fresh_text


def test_streams_of_many_threads_equal_those_of_a_separate_model(runner: Runner, fresh_text: str) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(ask_again(runner))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [fresh_text] * 6


async def test_the_event_loop_stays_free_while_tokens_stream(runner: Runner) -> None:
    """The loop runs many iterations per token. Their duration is measured in bench/, on a quiet machine."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    watcher = asyncio.create_task(turn())
    async with runner.stream_pipeline(raw(STORY, temperature=0.0, max_tokens=30)) as stream:
        chunks = len([chunk async for chunk in stream])
    watcher.cancel()
    assert chunks > 20
    assert turns > 10 * chunks


def test_two_concurrent_loads_do_not_change_stdout(smollm2: Path, capfd: pytest.CaptureFixture[str]) -> None:
    profiles = {kind: ModelProfile(model_path=smollm2, n_ctx=256) for kind in ModelProfileType}
    with PipelineFactory(profiles, max_loaded=2) as factory:
        runner = Runner(factory)
        streams = [
            runner.stream_pipeline(raw("a", max_tokens=1), profile_type=kind) for kind in list(ModelProfileType)[:2]
        ]
        printed = 0
        while not all(stream.metadata for stream in streams):
            os.write(1, b"line\n")
            sys.stdout.write("line\n")
            sys.stdout.flush()
            printed += 2
            time.sleep(0.002)  # prints during the whole generation
        os.write(1, b"after\n")
    assert capfd.readouterr().out == "line\n" * printed + "after\n"


def test_the_error_for_a_corrupt_file_names_a_remedy(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with smollm2.open("rb") as whole:
        path.write_bytes(whole.read(100_000))
    fails = pytest.raises(ModelLoadError, match=r"(?s)cannot load .*cut\.gguf with n_ctx=4096.*Is the file complete")
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=path)}) as factory, fails:
        list(Runner(factory).stream_pipeline(raw("a")))


def test_without_llama_cpp_python_the_error_names_the_package(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "nodespan\[llama-cpp\]"'):
        PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=smollm2)})


def test_a_context_that_cannot_be_made_is_refused(smollm2: Path) -> None:
    quantised_values_without_flash_attention = {"type_v": llama_cpp.GGML_TYPE_Q8_0}
    with pytest.raises(ModelLoadError, match=r"n_ctx=300.*Failed to create llama_context.*verbose"):
        LlamaCppPipeline(ModelProfile(model_path=smollm2, n_ctx=300, options=quantised_values_without_flash_attention))


SET_UP = """
import os, sys, threading, time
from nodespan.runner import PipelineFactory, Runner
from nodespan.types import GenerationRequest, ModelProfile, ModelProfileType, Sampling
profile = ModelProfile(model_path=sys.argv[1], n_ctx=2048, options={"n_threads_batch": 1})
factory = PipelineFactory({ModelProfileType.Primary: profile})
runner = Runner(factory)
def ask(text, **sampling):
    return runner.stream_pipeline(GenerationRequest(prompt=text, sampling=Sampling(**sampling)))
"""


def run(program: str, smollm2: Path) -> subprocess.CompletedProcess[str]:
    code = SET_UP + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(smollm2)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "program",
    [
        pytest.param('list(ask("The sea", max_tokens=2))', id="idle"),
        pytest.param('stream = ask("The sea"); next(stream)', id="decoding"),
        pytest.param('stream = ask("word " * 1800); time.sleep(1)', id="prefilling", marks=pytest.mark.extended),
        pytest.param('stream = ask("The sea", max_tokens=900); next(stream); time.sleep(1.5)', id="unread"),
        pytest.param(
            'streams = [ask("The sea") for _ in range(5)]; next(streams[0])', id="waiting", marks=pytest.mark.extended
        ),
        pytest.param('stream = ask("The sea")', id="loading"),
        pytest.param(
            'threading.Thread(target=lambda: list(ask("The sea", max_tokens=5))).start()',
            id="in a thread",
            marks=pytest.mark.extended,
        ),
    ],
)
def test_running_generations_do_not_prevent_the_interpreter_from_exiting(program: str, smollm2: Path) -> None:
    ended = run(program + "\nprint(time.time(), flush=True)", smollm2)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.time() - float(ended.stdout) < 30  # the running generation has no end


def test_a_forked_child_loads_the_model_again_and_the_parent_continues(smollm2: Path) -> None:
    program = """
    expected = [chunk.content for chunk in ask("The sea", seed=1, max_tokens=6)]
    under_way = ask("The sea", seed=1, max_tokens=40)
    next(under_way)
    child = os.fork()
    if child == 0:
        try:
            under_way.close()
            stream = ask("The sea", seed=1, max_tokens=6)
            assert [chunk.content for chunk in stream] == expected
            assert stream.metadata.cache_status == "loaded"
            try:
                next(ask("The sea", seed=1, max_tokens=6)) and list(under_way)
            except BaseException as error:
                print(type(error).__name__, flush=True)
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(under_way)) > 10
    again = ask("The sea", seed=1, max_tokens=6)
    assert [chunk.content for chunk in again] == expected
    assert again.metadata.cache_status == "hit"
    print("parent")
    """
    ended = run(program, smollm2)
    assert (ended.stdout, ended.returncode) == ("PipelineClosedError\nparent\n", 0), ended.stderr
