"""Real LangGraph, every way to run a graph, and a watch over what no test may leave behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import ExitStack, closing
from importlib.metadata import version

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from opentelemetry import context as context_api
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.langchain import LangChainInstrumentor
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from remote_graphs import RemoteServer
from small_graphs import chain


class OpenSpans(SpanProcessor):
    """Names of the spans that were started and not ended."""

    def __init__(self):
        self.open = {}
        self._lock = threading.Lock()

    def on_start(self, span, parent_context=None):
        with self._lock:
            self.open[span.context.span_id] = span.name

    def on_end(self, span):
        with self._lock:
            del self.open[span.context.span_id]


@pytest.fixture
def open_spans():
    return OpenSpans()


@pytest.fixture
def tracer_provider(exporter, open_spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(open_spans)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def tracer(tracer_provider):
    return tracer_provider.get_tracer("the user's own")


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(caplog):
    before = context_api.get_current()
    yield
    assert context_api.get_current() == before
    said = [record.getMessage() for record in caplog.records if record.name != "langgraph"]
    assert not [line for line in said if "never awaited" in line or "Error in" in line]


@pytest.fixture
def traced(tracer_provider):
    """``instrument()`` of LangGraph alone."""
    LangGraphInstrumentor().instrument(tracer_provider=tracer_provider)
    yield
    LangGraphInstrumentor().uninstrument()


@pytest.fixture
def all_traced(tracer_provider, measured):
    """``instrument()`` of every library, with metrics."""
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider)
    yield
    uninstrument()


@pytest.fixture
def serve(all_traced):
    """``server, remote = serve(*bodies)``: a server of a chain of nodes, and a ``RemoteGraph`` of it."""
    from langgraph.pregel.remote import RemoteGraph

    with ExitStack() as servers:

        def serves(*bodies):
            server = RemoteServer(chain(*bodies, name="Inside", checkpointer=InMemorySaver()))
            servers.enter_context(server.serving())
            remote = RemoteGraph("assistant", url=server.url, name="Far")
            servers.callback(remote.sync_client.http.client.close)
            return server, remote

        yield serves
    gc.collect()  # while the warnings of responses that LangGraph leaves open are ignored


@pytest.fixture
def traced_llama_cpp(tracer_provider):
    """``instrument()`` of llama-cpp-python alone."""
    from nodespan.instrumentation.llama_cpp import LlamaCppInstrumentor

    LlamaCppInstrumentor().instrument(tracer_provider=tracer_provider)
    yield
    if LlamaCppInstrumentor().is_instrumented_by_opentelemetry:
        LlamaCppInstrumentor().uninstrument()


@pytest.fixture
def switch_llama_cpp(tracer_provider):
    """Switches instrumentation of llama-cpp-python on; off again at the end."""
    yield lambda **more: instrument(tracer_provider=tracer_provider, langgraph=False, langchain=False, **more)
    uninstrument()


@pytest.fixture(scope="module")
def loaded(smollm2):
    """A llama.cpp model."""
    import llama_cpp
    from llama_cpp_cases import N_BATCH, N_CTX, ONE_THREAD

    with closing(llama_cpp.Llama(str(smollm2), n_ctx=N_CTX, n_batch=N_BATCH, verbose=False, **ONE_THREAD)) as llama:
        yield llama


@pytest.fixture
def llama(loaded):
    """A llama.cpp model with nothing in its cache."""
    loaded.reset()
    return loaded


@pytest.fixture
def traced_langchain(tracer_provider):
    """``instrument()`` of LangChain alone."""
    LangChainInstrumentor().instrument(tracer_provider=tracer_provider)
    yield
    LangChainInstrumentor().uninstrument()


def _stream(graph, value, config=None):
    return list(graph.stream(value, config))


def _stream_all(graph, value, config=None):
    return list(graph.stream(value, config, stream_mode=["values", "custom", "messages"], subgraphs=True))


def _batch(graph, value, config=None):
    return graph.batch([value], config)[0]


def _events_v3(graph, value, config=None):
    return list(graph.stream_events(value, config, version="v3"))


async def _astream(graph, value, config=None):
    return [item async for item in graph.astream(value, config)]


async def _abatch(graph, value, config=None):
    return (await graph.abatch([value], config))[0]


async def _aevents(graph, value, config, version):
    return [event async for event in graph.astream_events(value, config, version=version)]


async def _aevents_v3(graph, value, config=None):
    return [event async for event in await graph.astream_events(value, config, version="v3")]


def _in_loop(function):
    return lambda *args: asyncio.run(function(*args))


SYNC = {
    "invoke": lambda graph, value, config=None: graph.invoke(value, config),
    "stream": _stream,
    "stream-all-modes": _stream_all,
    "batch": _batch,
    "stream_events-v3": _events_v3,
}
ASYNC = {
    "ainvoke": _in_loop(lambda graph, value, config=None: graph.ainvoke(value, config)),
    "astream": _in_loop(_astream),
    "abatch": _in_loop(_abatch),
    "astream_events-v1": _in_loop(lambda graph, value, config=None: _aevents(graph, value, config, "v1")),
    "astream_events-v2": _in_loop(lambda graph, value, config=None: _aevents(graph, value, config, "v2")),
    "astream_events-v3": _in_loop(_aevents_v3),
}


def has_v3():
    from langgraph.pregel import Pregel

    return "stream_events" in vars(Pregel)


def runs_tasks_under_events():
    """Before 1.2.20 a task of the functional API returned ``None`` under ``astream_events`` (tried: 1.2.18)."""
    return tuple(int(part) for part in version("langgraph").split(".")[:3]) >= (1, 2, 20)


def _ways(ways, *, of_tasks=False):
    no_v3 = pytest.mark.skipif(not has_v3(), reason="this LangGraph has no v3 event stream")
    no_tasks = pytest.mark.skipif(
        of_tasks and not runs_tasks_under_events(), reason="this LangGraph runs no tasks under events"
    )
    # LangChain's own warnings: v1 is deprecated, v3 is beta
    quiet = pytest.mark.filterwarnings("ignore:.*(is deprecated|experimental|beta)")
    skips = {"v3": no_v3, "astream_events": no_tasks}
    return [
        pytest.param(way, id=name, marks=[quiet, *(skip for part, skip in skips.items() if part in name)])
        for name, way in ways.items()
    ]


@pytest.fixture(params=_ways({**SYNC, **ASYNC}))
def run(request):
    """Every way to run a graph to its end: ``run(graph, input, config)``."""
    return request.param


@pytest.fixture(params=_ways(ASYNC))
def arun(request):
    """Every way that runs async nodes."""
    return request.param


@pytest.fixture(params=_ways({**SYNC, **ASYNC}, of_tasks=True))
def run_tasks(request):
    """Every way to run a workflow of the functional API."""
    return request.param


@pytest.fixture(params=_ways(ASYNC, of_tasks=True))
def arun_tasks(request):
    """Every way that runs async tasks of the functional API."""
    return request.param


@pytest.fixture(params=["ours first", "peer first"])
def together(request, peer):
    """nodespan and another instrumentation, the file's ``peer``, in the order in which they are installed."""
    return ("ours", peer) if request.param == "ours first" else (peer, "ours")
