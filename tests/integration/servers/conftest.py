"""Real servers, one of a kind for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_server import LlamaServer


@pytest.fixture(scope="module")
def llama_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """A llama-server with two slots."""
    with LlamaServer(smollm2, tmp_path_factory.mktemp("llama-server")) as server:
        yield server
