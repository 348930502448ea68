"""Libraries that are not installed: switching instrumentation on and off skips them without an error."""

from __future__ import annotations

import sys

import pytest

import nodespan


@pytest.mark.parametrize("library", ["openai", "llama_cpp"])
def test_a_library_that_is_not_installed_is_skipped(library, monkeypatch, tracer_provider):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # import raises ModuleNotFoundError
    for _ in range(2):
        nodespan.instrument(tracer_provider=tracer_provider)
        nodespan.uninstrument()
