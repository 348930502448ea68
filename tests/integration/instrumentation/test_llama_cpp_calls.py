"""The invariants of issue 4 for calls of llama-cpp-python, on the real model."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import timeit
import traceback
import types
import weakref
from contextlib import closing

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, SpanContext, TraceFlags

import llama_cpp
from llama_cpp_cases import N_BATCH, N_CTX, ONE_THREAD, STORY, words
from nodespan import semconv
from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from nodespan.instrumentation.llama_cpp import LlamaCppInstrumentor
from nodespan.spans.model_span import ModelCallOwner
from nodespan.spans.owner import current_owner, get_tracer
from nodespan.testing import span_tree
from small_graphs import chain

METHODS = ("__call__", "create_completion", "create_chat_completion", "create_embedding", "embed", "generate")
MESSAGES = [{"role": "user", "content": "What is the sea?"}]


@pytest.fixture(scope="module")
def loaded(smollm2):
    with closing(llama_cpp.Llama(str(smollm2), n_ctx=N_CTX, n_batch=N_BATCH, verbose=False, **ONE_THREAD)) as llama:
        yield llama


@pytest.fixture
def llama(loaded):
    loaded.reset()
    return loaded


@pytest.fixture
def switch(tracer_provider):
    """Switches instrumentation on; off again at the end."""
    yield lambda **more: instrument(tracer_provider=tracer_provider, langgraph=False, langchain=False, **more)
    uninstrument()


def whole(llama):
    return llama.create_completion(STORY, max_tokens=3, seed=5)


def whole_chat(llama):
    return llama.create_chat_completion(MESSAGES, max_tokens=3, seed=5)


def streamed(llama):
    return llama.create_completion(STORY, max_tokens=8, seed=5, stream=True)


def streamed_chat(llama):
    return llama.create_chat_completion(MESSAGES, max_tokens=8, seed=5, stream=True)


def tokens(llama):
    return llama.generate(llama.tokenize(STORY.encode()), temp=0.0)


STREAMS = pytest.mark.parametrize("stream", [streamed, streamed_chat, tokens], ids=lambda stream: stream.__name__)
ANY = pytest.mark.parametrize("ask", [whole, whole_chat, streamed, streamed_chat], ids=lambda ask: ask.__name__)


def read(answer):
    """What came out, without the ids and times that differ from call to call."""
    pieces = list(answer) if isinstance(answer, types.GeneratorType) else [answer]
    return [{key: value for key, value in piece.items() if key not in {"id", "created"}} for piece in pieces]


def calls(exporter):
    """The spans of calls, without their children."""
    return [span for span in exporter.get_finished_spans() if not span.name.startswith("llama_cpp.")]


def the_call(exporter):
    (span,) = calls(exporter)
    return span


def status(span):
    return span.attributes["nodespan.status"]


# 2: context


@STREAMS
def test_between_two_pieces_the_context_is_the_consumers_own(llama, traced_llama_cpp, stream):
    pieces = stream(llama)
    for number in range(3):
        with trace.use_span(NonRecordingSpan(SpanContext(7, 8 + number, is_remote=False))):
            token = context_api.attach(baggage.set_baggage("number", number))
            before = context_api.get_current()
            next(pieces)
            assert context_api.get_current() is before
            context_api.detach(token)
    before = context_api.get_current()
    pieces.close()
    assert context_api.get_current() is before


def test_the_span_is_current_inside_the_call_and_only_there(llama, traced_llama_cpp, exporter):
    seen = []

    def looks(input_ids, scores):
        seen.append(trace.get_current_span().get_span_context().span_id)
        return scores

    processors = llama_cpp.LogitsProcessorList([looks])
    llama.create_completion(STORY, max_tokens=2, logits_processor=processors)
    assert set(seen) == {the_call(exporter).context.span_id}
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_parent_is_the_span_at_the_call_also_when_another_thread_reads(
    llama, traced_llama_cpp, tracer_provider, exporter
):
    tracer = tracer_provider.get_tracer("test")
    with tracer.start_as_current_span("asks"):
        pieces = streamed(llama)
    read_by_another = []

    def go_on():
        with tracer.start_as_current_span("reads"):
            read_by_another.extend(pieces)

    next(pieces)
    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join()
    assert read_by_another
    assert [
        (span["name"], [child["name"].split()[0] for child in span.get("children", [])]) for span in span_tree(exporter)
    ] == [
        ("asks", ["text_completion"]),
        ("reads", []),
    ]


def test_a_remote_parent_is_the_parent(llama, traced_llama_cpp, exporter):
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(remote)):
        whole(llama)
    assert the_call(exporter).parent == remote


def test_in_nodes_sync_async_and_in_threads_it_stands_under_its_node(llama, switch, tracer_provider, exporter):
    LangGraphInstrumentor().instrument(tracer_provider=tracer_provider)
    switch()

    def asks(state):
        whole(llama)

    async def asks_in_thread(state):
        await asyncio.to_thread(whole_chat, llama)

    def reads_in_thread(state):
        pieces = streamed(llama)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(list, pieces))
        thread.start()
        thread.join()

    asyncio.run(chain(asks, asks_in_thread, reads_in_thread).ainvoke({"seen": []}))
    (run,) = span_tree(exporter)
    assert [(node["name"], [call["name"].split()[0] for call in node["children"]]) for node in run["children"]] == [
        ("invoke_node asks", ["text_completion"]),
        ("invoke_node asks_in_thread", ["chat"]),
        ("invoke_node reads_in_thread", ["text_completion"]),
    ]


async def test_calls_of_many_tasks_do_not_mix(llama, traced_llama_cpp, tracer_provider, exporter):
    tracer = tracer_provider.get_tracer("test")
    free = threading.Lock()  # a model does one thing at a time

    def asks(number):
        with free:
            llama.create_completion(words(number), max_tokens=1)

    async def one(number):
        with tracer.start_as_current_span(f"caller {number}"):
            await asyncio.to_thread(asks, number)

    await asyncio.gather(*(one(number) for number in range(1, 41)))
    found = {
        span["name"]: [child["attributes"]["gen_ai.usage.input_tokens"] for child in span["children"]]
        for span in span_tree(exporter, "gen_ai.usage.input_tokens")
    }
    assert found == {f"caller {number}": [number] for number in range(1, 41)}


# 3: every span ends, once


@STREAMS
def test_a_stream_that_is_left_ends_its_span_at_once(llama, traced_llama_cpp, exporter, open_spans, stream):
    for _ in stream(llama):
        break
    gc.collect()
    assert status(the_call(exporter)) == "cancelled"
    assert the_call(exporter).attributes["gen_ai.usage.output_tokens"] == 1
    assert open_spans.open == {}


@STREAMS
def test_a_stream_that_is_never_read_ends_its_span_when_it_is_dropped(llama, traced_llama_cpp, exporter, stream):
    pieces = stream(llama)
    del pieces
    assert status(the_call(exporter)) == "cancelled"


def test_a_stream_that_is_dropped_in_another_thread_or_cycle_ends_its_span(llama, traced_llama_cpp, exporter):
    pieces = streamed(llama)
    next(pieces)
    cycle = [pieces]
    cycle.append(cycle)
    del pieces, cycle
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    assert status(the_call(exporter)) == "cancelled"


def test_1000_streams_that_are_left_leave_nothing_behind(llama, traced_llama_cpp, exporter, open_spans):
    kept = []

    def leaves_one():
        pieces = llama.create_completion(" the", max_tokens=2, stream=True)
        next(pieces)
        kept.append(weakref.ref(pieces))

    for _ in range(1000):
        leaves_one()
    assert len(calls(exporter)) == 1000
    assert open_spans.open == {}
    assert [reference for reference in kept if reference() is not None] == []
    exporter.clear()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, ModelCallOwner)]


async def test_a_call_whose_task_is_cancelled_ends_its_span(llama, traced_llama_cpp, exporter):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(lambda: list(streamed(llama)))
    for _ in range(1000):  # the thread goes on: nothing can stop it
        if exporter.get_finished_spans():
            break
        await asyncio.sleep(0.01)
    assert status(the_call(exporter)) == "ok"


async def test_a_task_that_is_cancelled_between_two_pieces_ends_its_span(llama, traced_llama_cpp, exporter):
    async def reads():
        for _ in streamed(llama):
            await asyncio.sleep(0)

    task = asyncio.create_task(reads())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert status(the_call(exporter)) == "cancelled"
    assert the_call(exporter).events == ()


def test_a_model_that_is_closed_under_its_stream_ends_the_span(smollm2, traced_llama_cpp, exporter):
    llama = llama_cpp.Llama(str(smollm2), n_ctx=64, verbose=False)
    pieces = streamed(llama)
    next(pieces)
    llama.close()
    pieces.close()
    assert status(the_call(exporter)) == "cancelled"
    assert the_call(exporter).attributes["gen_ai.usage.output_tokens"] == 1


# 5: status


def too_long(llama, **more):
    return llama.create_completion(words(N_CTX + 1), **more)


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["whole", "streamed"])
def test_an_error_is_recorded_once_and_reaches_the_program(llama, traced_llama_cpp, tracer_provider, exporter, more):
    with (
        pytest.raises(ValueError, match="exceed context window"),
        get_tracer(tracer_provider).start_as_current_span(
            "caller", record_exception=False, set_status_on_exception=False
        ),
    ):
        answer = too_long(llama, **more)
        list(answer)
    span = calls(exporter)[0]
    assert (span.status.status_code.name, span.attributes["error.type"]) == ("ERROR", "ValueError")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert [event.name for event in span.events] == ["exception"]


def test_an_error_before_the_stream_begins_is_the_calls(llama, traced_llama_cpp, exporter):
    tool = {"type": "function", "function": {"name": "other"}}
    with pytest.raises(ValueError, match="not found in tools"):
        llama.create_chat_completion(MESSAGES, tools=[], tool_choice=tool, stream=True)
    assert the_call(exporter).attributes["error.type"] == "ValueError"


def test_an_error_in_a_node_is_recorded_on_the_call_alone(llama, switch, tracer_provider, exporter):
    LangGraphInstrumentor().instrument(tracer_provider=tracer_provider)
    switch()

    def fails(state):
        too_long(llama)

    with pytest.raises(ValueError, match="exceed context window"):
        chain(fails).invoke({"seen": []})
    events = {span.name.split()[0]: [event.name for event in span.events] for span in exporter.get_finished_spans()}
    assert events == {"text_completion": ["exception"], "invoke_node": [], "invoke_workflow": []}
    assert {span.status.status_code.name for span in exporter.get_finished_spans()} == {"ERROR"}


def test_what_a_consumer_throws_into_a_stream_is_its_error(llama, traced_llama_cpp, exporter):
    pieces = streamed(llama)
    next(pieces)
    with pytest.raises(KeyError):
        pieces.throw(KeyError("mine"))
    assert the_call(exporter).attributes["error.type"] == "KeyError"


def test_embed_of_a_model_that_cannot_fails_as_ever(llama, traced_llama_cpp, exporter):
    with pytest.raises(RuntimeError, match="embedding=True"):
        llama.create_embedding("a")
    with pytest.raises(RuntimeError, match="embedding=True"):
        llama.embed("a")
    assert [span.attributes["error.type"] for span in calls(exporter)] == ["RuntimeError", "RuntimeError"]


# 9: the program's results


@ANY
def test_results_and_their_types_are_those_without_instrumentation(llama, switch, exporter, ask):
    plain = ask(llama)
    kind, plain = type(plain), read(plain)
    llama.reset()
    switch()
    answer = ask(llama)
    assert type(answer) is kind
    assert read(answer) == plain
    assert len(calls(exporter)) == 1


def test_tokens_are_those_without_instrumentation(llama, switch):
    def first(count):
        llama.reset()
        with closing(tokens(llama)) as generated:
            assert isinstance(generated, types.GeneratorType)
            return [next(generated) for _ in range(count)]

    plain = first(5)
    switch()
    assert first(5) == plain


def test_a_stream_is_as_lazy_as_ever(llama, switch):
    switch()
    for ask in (streamed, tokens, too_long):
        pieces = ask(llama, stream=True) if ask is too_long else ask(llama)
        assert llama.n_tokens == 0
        pieces.close()


def test_exceptions_and_their_frames_are_those_without_instrumentation(llama, switch):
    seen = []
    for _ in range(2):
        with pytest.raises(ValueError, match="context window") as raised:
            list(too_long(llama, stream=True))
        frames = traceback.extract_tb(raised.value.__traceback__)
        seen.append(
            (raised.value.args, raised.value.__cause__, [f.name for f in frames if "nodespan" not in f.filename])
        )
        switch()
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "ask",
    [lambda llama: llama.generate(), lambda llama: llama.create_completion(), lambda llama: llama.embed(1, 2, wrong=3)],
)
def test_a_wrong_call_is_refused_in_the_librarys_own_words(llama, switch, ask):
    with pytest.raises(TypeError) as plain:
        ask(llama)
    switch()
    with pytest.raises(TypeError) as raised:
        ask(llama)
    assert raised.value.args == plain.value.args


# 12: nobody looks


def test_without_a_provider_nothing_is_opened_and_the_parent_is_passed_on(llama):
    seen = []

    def looks(input_ids, scores):
        seen.append((trace.get_current_span().get_span_context().span_id, current_owner()))
        return scores

    instrument(tracer_provider=NoOpTracerProvider(), langgraph=False, langchain=False)
    try:
        remote = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1))
        with trace.use_span(NonRecordingSpan(remote)):
            llama.create_completion(STORY, max_tokens=1, logits_processor=llama_cpp.LogitsProcessorList([looks]))
        assert seen == [(8, None)]
        assert streamed(llama).gi_code.co_name == "_create_completion"  # llama-cpp-python's own generator
        cost_s = min(timeit.repeat(lambda: streamed(llama), number=100, repeat=5)) / 100
    finally:
        uninstrument()
    assert cost_s < 0.001  # a token of the smallest model takes ten times that


def test_an_unsampled_call_has_metrics_and_its_calls_inside_are_unsampled(llama, measured):
    seen = []

    def looks(input_ids, scores):
        seen.append(trace.get_current_span().get_span_context().trace_flags.sampled)
        return scores

    provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    instrument(tracer_provider=provider, meter_provider=measured.provider, langgraph=False, langchain=False)
    try:
        llama.create_completion(STORY, max_tokens=1, logits_processor=llama_cpp.LogitsProcessorList([looks]))
    finally:
        uninstrument()
    assert seen == [False]
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {"input": (19, 1), "output": (1, 1)}


def test_metrics_are_the_spans_facts(llama, switch, exporter, measured):
    switch(meter_provider=measured.provider)
    list(streamed_chat(llama))
    attributes = the_call(exporter).attributes
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {
        "input": (attributes["gen_ai.usage.input_tokens"], 1),
        "output": (attributes["gen_ai.usage.output_tokens"], 1),
    }
    assert measured.of(semconv.TIME_TO_FIRST_TOKEN) == {(): (attributes["nodespan.time_to_first_token_s"], 1)}
    assert measured.of(semconv.PREFILL_DURATION) == {(): (attributes["nodespan.prompt_eval_s"], 1)}
    assert measured.of(semconv.DECODE_DURATION) == {(): (attributes["nodespan.decode_s"], 1)}
    assert measured.of(semconv.DECODE_TOKENS) == {(): attributes["gen_ai.usage.output_tokens"] - 1}
    labels = (semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.FINISH_REASON, semconv.ERROR_TYPE)
    assert list(measured.of(semconv.OPERATION_DURATION, *labels)) == [("chat", "llama_cpp", "length", None)]


# on and off, and beside others


def test_uninstrument_restores_everything_and_instrument_is_idempotent(llama, switch, exporter, caplog):
    caplog.set_level(logging.WARNING)
    before = [getattr(llama_cpp.Llama, name) for name in METHODS]
    switch()
    wrapped = [getattr(llama_cpp.Llama, name) for name in METHODS]
    assert not any(a is b for a, b in zip(before, wrapped, strict=True))
    switch()
    assert [getattr(llama_cpp.Llama, name) for name in METHODS] == wrapped
    pieces = streamed(llama)
    next(pieces)
    uninstrument()
    assert [getattr(llama_cpp.Llama, name) for name in METHODS] == before
    list(pieces)
    assert status(the_call(exporter)) == "ok"
    whole(llama)
    assert len(calls(exporter)) == 1
    assert caplog.records == []


def test_a_model_call_around_it_has_the_span_and_gets_the_numbers(llama, traced_llama_cpp, tracer_provider, exporter):
    """As LangChain's ChatLlamaCpp and LlamaCpp do; the latter calls the model once for each prompt."""
    outer = ModelCallOwner(get_tracer(tracer_provider), "chat", "another", "a-name")
    with outer.attached():
        first = whole(llama)["usage"]
        second = llama.create_completion("An apple is", max_tokens=2, seed=5)["usage"]
    outer.finish()
    assert [span["name"].split()[0] for span in span_tree(exporter)] == ["chat"]
    assert [child["name"] for child in span_tree(exporter)[0]["children"]] == [
        "llama_cpp.prefill",
        "llama_cpp.decode",
    ] * 2
    attributes = the_call(exporter).attributes
    assert attributes["gen_ai.usage.input_tokens"] == first["prompt_tokens"] + second["prompt_tokens"]
    assert attributes["gen_ai.usage.output_tokens"] == first["completion_tokens"] + second["completion_tokens"] == 5
    assert attributes["gen_ai.request.model"] == "a-name"
    assert attributes["nodespan.tokens_per_s"] == pytest.approx((5 - 2) / attributes["nodespan.decode_s"])


def test_another_model_asked_by_a_logits_processor_has_a_span_of_its_own(llama, smollm2, traced_llama_cpp, exporter):
    with closing(llama_cpp.Llama(str(smollm2), n_ctx=64, verbose=False)) as judge:

        def asks(input_ids, scores):
            judge.create_completion(" the", max_tokens=2)
            return scores

        llama.create_completion(STORY, max_tokens=1, logits_processor=llama_cpp.LogitsProcessorList([asks]))
    inner, outer = calls(exporter)
    assert inner.parent.span_id == outer.context.span_id
    assert (inner.attributes["gen_ai.usage.output_tokens"], outer.attributes["gen_ai.usage.output_tokens"]) == (2, 1)


@pytest.mark.parametrize("gone", METHODS)
def test_without_one_of_the_methods_the_rest_works_and_it_is_said(llama, monkeypatch, switch, exporter, caplog, gone):
    from nodespan.instrumentation._seams import Seams
    from nodespan.instrumentation.llama_cpp import _seam

    monkeypatch.setattr(_seam, "SEAMS", Seams("a llama-cpp-python", _seam.SEAMS._seams))
    names = [seam for seam in _seam.SEAMS._seams if seam.name == gone]
    original = getattr(llama_cpp.Llama, gone)
    monkeypatch.delattr(llama_cpp.Llama, gone)
    switch()
    setattr(llama_cpp.Llama, gone, original)  # the program still works, it is our seam that is gone
    whole(llama)
    list(streamed_chat(llama))
    assert [span.name.split()[0] for span in calls(exporter)] == [
        "text_completion",
        "text_completion" if gone == "create_chat_completion" else "chat",
    ]
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"There is no llama_cpp.llama.Llama.{gone} here: nodespan goes on without {names[0].lost}" in said


def test_an_error_of_our_own_does_not_reach_the_program(llama, switch, monkeypatch, exporter):
    monkeypatch.delenv("NODESPAN_RAISE_INTERNAL_ERRORS")
    plain = read(whole(llama))
    switch()

    def breaks(*args, **kwargs):
        raise ZeroDivisionError("ours")

    for name in ("request", "finish_reason", "total"):
        llama.reset()
        with monkeypatch.context() as patch:
            patch.setattr(f"nodespan.instrumentation.llama_cpp._convert.{name}", breaks)
            assert read(whole(llama)) == plain
    assert len(calls(exporter)) == 2  # the first was not opened; the others ended


def test_a_library_that_is_absent_is_no_error(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    caplog.set_level(logging.INFO)
    instrument(langgraph=False, langchain=False, meter_provider=MeterProvider(shutdown_on_exit=False))
    uninstrument()
    assert caplog.records == []


def test_a_library_that_cannot_be_loaded_is_said_and_no_error(monkeypatch, caplog):
    def fails(name):
        raise RuntimeError("libllama.so is for another machine")

    monkeypatch.setattr("importlib.import_module", fails)
    LlamaCppInstrumentor().instrument()
    monkeypatch.undo()
    LlamaCppInstrumentor().uninstrument()
    (record,) = caplog.records
    assert "cannot be imported and is not traced: libllama.so is for another machine" in record.getMessage()
