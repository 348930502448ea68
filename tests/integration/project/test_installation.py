"""The environment that `make` installed runs a real model."""

from __future__ import annotations

from pathlib import Path

from llama_cpp import Llama


def test_llama_cpp_runs_the_small_model(smollm2: Path) -> None:
    model = Llama(model_path=str(smollm2), n_ctx=64, verbose=False)
    answer = model.create_completion("Once upon a", max_tokens=4, temperature=0)
    model.close()
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["choices"][0]["text"].strip()
