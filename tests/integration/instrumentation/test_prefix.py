"""Why a prompt was evaluated again: compared with what the model's context held from the call before."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from nodespan.cli._tree import repeated_prefill
from nodespan.instrumentation import instrument
from nodespan.runner import PipelineFactory
from nodespan.types import ModelProfile, ModelProfileType
from nodespan.workflow import PipelineNode, WorkflowState
from small_graphs import chain
from workflow_graphs import one_node

COMMON = "The following is a list of the rivers of Europe, with the countries that they flow through. "
PLAN = COMMON + "Danube: Germany, Austria, Slovakia, Hungary, Croatia, Serbia, Romania, Bulgaria, Moldova and Ukraine."
CHECK = COMMON + "Rhine: Switzerland, Liechtenstein, Austria, Germany, France and the Netherlands, to the North Sea."


def prompts(llama, *steps):
    """A graph whose nodes call the model, each ``(name, prompt)``."""

    def asks(prompt):
        return lambda state: {"seen": [llama.create_completion(prompt, max_tokens=4, temperature=0.0)]}

    return chain(*((name, asks(prompt), {}) for name, prompt in steps))


def calls(exporter):
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("text_completion")]
    return sorted(spans, key=lambda span: span.start_time)


@pytest.fixture
def traced_graphs(tracer_provider, measured):
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider, langchain=False, openai=False)


@pytest.mark.usefixtures("traced_graphs")
def test_a_prompt_that_breaks_the_prefix_names_the_node_and_the_token(llama, exporter, measured):
    prompts(llama, ("plan", PLAN), ("check", CHECK)).invoke({"seen": []})
    first, second = calls(exporter)
    assert "nodespan.prefix.shared_tokens" not in first.attributes
    assert first.attributes["nodespan.context_size"] == llama.n_ctx()
    tokens = [llama.tokenize(text.encode()) for text in (PLAN, CHECK)]
    shared = next(i for i, pair in enumerate(zip(*tokens, strict=False)) if pair[0] != pair[1])
    assert shared > 10
    attributes = second.attributes
    assert attributes["nodespan.prefix.shared_tokens"] == shared
    assert attributes["nodespan.prefix.previous_node"] == "plan"
    assert attributes["nodespan.prefix.repeated_tokens"] == min(len(tokens[0]) + 3, len(tokens[1])) - shared
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == shared
    assert 0 < attributes["nodespan.prefix.cost_s"] <= attributes["nodespan.prompt_eval_s"]
    (link,) = second.links
    assert (link.context.span_id, dict(link.attributes)) == (
        first.context.span_id,
        {"nodespan.link": "previous_prompt"},
    )
    line = repeated_prefill(attributes)
    assert line.startswith(
        f"prefilled {len(tokens[1]) - shared} of {len(tokens[1])} tokens again: "
        f"differs from node plan's prompt at token {shared}, cost "
    )
    found = measured.of("nodespan.prefix.reuse", "gen_ai.node.name", "nodespan.prefix.previous_node")
    assert found == {("plan", None): (0.0, 1), ("check", "plan"): (pytest.approx(shared / len(tokens[1])), 1)}


def test_the_metric_has_its_labels_without_a_recorded_span(llama, measured):
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    instrument(tracer_provider=unsampled, meter_provider=measured.provider, langchain=False, openai=False)
    prompts(llama, ("plan", PLAN), ("check", CHECK)).invoke({"seen": []})
    found = measured.of("nodespan.prefix.reuse", "gen_ai.node.name", "nodespan.prefix.previous_node")
    assert list(found) == [("plan", None), ("check", "plan")]


@pytest.mark.usefixtures("traced_graphs")
def test_a_prompt_that_extends_the_context_repeats_no_token(llama, exporter):
    prompts(llama, ("plan", PLAN), ("more", PLAN)).invoke({"seen": []})
    _, second = calls(exporter)
    assert second.attributes["nodespan.prefix.shared_tokens"] == second.attributes["gen_ai.usage.input_tokens"]
    assert second.attributes["nodespan.prefix.repeated_tokens"] == 0
    assert not second.links
    assert repeated_prefill(second.attributes) is None


@pytest.mark.usefixtures("traced_graphs")
def test_an_empty_context_has_no_previous_call(llama, exporter):
    prompts(llama, ("plan", PLAN)).invoke({"seen": []})
    llama.reset()
    prompts(llama, ("check", CHECK)).invoke({"seen": []})
    _, second = calls(exporter)
    assert not [key for key in second.attributes if key.startswith("nodespan.prefix")]


@pytest.mark.usefixtures("traced_graphs")
def test_calls_outside_of_graphs_are_compared_too(llama, exporter):
    for prompt in (PLAN, CHECK):
        llama.create_completion(prompt, max_tokens=2)
    _, second = calls(exporter)
    assert "nodespan.prefix.previous_node" not in second.attributes
    assert "differs from the prompt before" in repeated_prefill(second.attributes)


def test_models_of_a_runner_are_compared_across_graphs(smollm2, exporter, tracer_provider):
    profile = ModelProfile(model_path=smollm2, n_ctx=512, n_threads=1)
    with PipelineFactory({ModelProfileType.Primary: profile}) as models:
        for name in ("first", "second"):
            node = PipelineNode(pipeline_factory=models, tracer_provider=tracer_provider)
            instrument(tracer_provider=tracer_provider, langchain=False, llama_cpp=False, openai=False)
            one_node(node, name).invoke(WorkflowState.from_prompt(f"{COMMON} Write a sentence for {name}."))
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("chat ")]
    assert spans[1].attributes["nodespan.prefix.previous_node"] == "first"
    assert spans[1].attributes["nodespan.prefix.shared_tokens"] > 10


def test_a_server_s_cached_tokens_are_compared_with_the_prompt():
    assert (
        repeated_prefill(
            {
                "gen_ai.usage.input_tokens": 1310,
                "gen_ai.usage.cache_read.input_tokens": 106,
                "server.address": "127.0.0.1",
                "nodespan.prompt_eval_s": 2.1,
            }
        )
        == "prefilled 1,204 of 1,310 tokens: the server had 106 in its cache, cost 2.1 s"
    )
