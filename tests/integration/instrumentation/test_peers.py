"""Invariant 11: beside another instrumentation of LangChain, in either order, each in the version that was tried.

The peers are no dependencies of nodespan. They are installed once, without theirs, into a folder of the user's cache,
and are found there by a process of its own per combination.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from platformdirs import user_cache_path

pytestmark = pytest.mark.extended

PACKAGES = (
    "openinference-instrumentation-langchain==0.1.80",
    "openinference-instrumentation==0.1.72",
    "openinference-semantic-conventions==0.1.42",
    "opentelemetry-instrumentation-genai-langchain==1.3b0",
    "opentelemetry-util-genai==1.3b0",
    "opentelemetry-instrumentation-langchain==0.62.4",
    "opentelemetry-semantic-conventions-ai==0.5.1",
)
PEERS = ("openllmetry", "openinference", "official")
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder with the peers."""
    key = hashlib.sha256("\n".join(PACKAGES).encode()).hexdigest()[:16]
    home = user_cache_path("nodespan") / f"peers-{sys.version_info.major}.{sys.version_info.minor}-{key}"
    if not home.exists():
        new = home.with_name(f"{home.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--target", new, *PACKAGES], check=True, timeout=300)
        try:
            new.rename(home)
        except OSError:  # somebody else was quicker
            assert home.exists()
    return home


@pytest.fixture(scope="module")
def run(installed):
    """Runs the program under these instrumentations; once for each combination."""
    known: dict[tuple[str, ...], tuple[dict, str]] = {}

    def run_once(*names: str) -> tuple[dict, str]:
        if names not in known:
            path = os.pathsep.join([str(installed), str(TESTS), *sys.path])
            done = subprocess.run(
                [sys.executable, "-W", "ignore", TESTS / "peer_program.py", *names],
                env={**os.environ, "PYTHONPATH": path, "NODESPAN_RAISE_INTERNAL_ERRORS": "1"},
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            known[names] = json.loads(done.stdout.splitlines()[-1]), done.stderr
        return known[names]

    return run_once


def of(scope_is_ours, spans):
    return Counter(name for scope, name, *_ in spans if (scope == "nodespan") == scope_is_ours)


@pytest.fixture(params=PEERS)
def peer(request):
    return request.param


@pytest.fixture(params=["ours first", "peer first"])
def together(request, peer):
    return ("ours", peer) if request.param == "ours first" else (peer, "ours")


def test_the_program_s_results_are_the_same_and_nobody_complains(run, together):
    plain, _ = run()
    both, said = run(*together)
    assert {way: one["result"] for way, one in both.items()} == {way: one["result"] for way, one in plain.items()}
    assert said == ""


def test_none_of_the_peer_s_spans_is_lost(run, peer, together):
    alone, both = run(peer)[0], run(*together)[0]
    for way, one in alone.items():
        assert of(False, both[way]["spans"]) == of(False, one["spans"]) != Counter()


def test_ours_are_all_there_and_have_their_parents(run, peer, together):
    """All but a model's span where the official instrumentation makes one: that one is not doubled."""
    alone, both = run("ours")[0], run(*together)[0]
    for way, one in alone.items():
        ours = [span for span in one["spans"] if peer != "official" or not span[1].startswith("chat")]
        beside = [span for span in both[way]["spans"] if span[0] == "nodespan"]
        assert [span[1] for span in beside] == [span[1] for span in ours]
        for span, expected in zip(beside, ours, strict=True):
            if expected[2] is not None:  # the run's own span may stand under the peer's
                assert span == expected


@pytest.mark.parametrize("first", [True, False])
def test_a_model_call_has_one_span_beside_the_official_instrumentation(run, first):
    both = run(*(("ours", "official") if first else ("official", "ours")))[0]
    for way, one in both.items():
        chats = [scope for scope, name, *_ in one["spans"] if name == "chat talker-1"]
        assert chats == ["opentelemetry.instrumentation.genai.langchain"] * (1 if way == "model alone" else 2)
