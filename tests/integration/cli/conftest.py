"""The `nodespan` command, run in this process."""

from __future__ import annotations

import json
import sys

import pytest

from nodespan.cli import main


class Cli:
    """``cli("traces", "--json")`` runs a command; what it left is in ``code``, ``out`` and ``err``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.code: object = None
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> Cli:
        self._monkeypatch.setattr(sys, "argv", ["nodespan", *arguments])
        self._capsys.readouterr()
        try:
            main()
            self.code = 0
        except SystemExit as left:
            self.code = left.code or 0
        self.out, self.err = self._capsys.readouterr()
        return self

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli(monkeypatch, capsys):
    return Cli(monkeypatch, capsys)
