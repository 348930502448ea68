"""A frozen program (PyInstaller and its like): modules without the metadata of their distributions."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import importlib.metadata as metadata, json
find = metadata.MetadataPathFinder.find_distributions
hidden = {"langgraph", "langchain-core"}
metadata.MetadataPathFinder.find_distributions = classmethod(
    lambda cls, context=metadata.DistributionFinder.Context():
        (found for found in find(context) if found.metadata["Name"].lower() not in hidden)
)
from typing import TypedDict
from langchain_core.language_models import FakeListLLM
from langgraph.graph import START, StateGraph
import nodespan

class State(TypedDict):
    text: str

telemetry = nodespan.configure()
nodespan.instrument(llama_cpp=False, openai=False)
graph = StateGraph(State).add_node("ask", lambda state: {"text": FakeListLLM(responses=["yes"]).invoke("?")})
answer = graph.add_edge(START, "ask").compile().invoke({"text": ""})
print(json.dumps([answer, telemetry.force_flush(5).ended]))
"""


def test_a_frozen_program_is_traced(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NODESPAN_STORE": str(tmp_path / "spans.db")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"text": "yes"}, 3]  # the run, its node and the model
