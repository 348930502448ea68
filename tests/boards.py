"""Shared by the tests of the Grafana boards: the committed boards, and their queries as Grafana sends them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "dashboards"
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("json/*.json")}
VARIABLE = re.compile(r"\$(?:\{(\w+)[^}]*\}|(\w+))")


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    board: str
    panel: dict[str, Any]
    target: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.board}: {self.panel['title']} {self.target['refId']}"

    def expression(self, **given: str) -> str:
        """The PromQL that Grafana would send with these values; variables without a value match everything."""
        return substituted(self.target["expr"], given)


def substituted(text: str, given: Mapping[str, str]) -> str:
    """The text with Grafana's variables replaced."""
    values = {"__rate_interval": "4m", "__range": "1h", **given}
    return VARIABLE.sub(lambda found: values.get(found[1] or found[2], ".*"), text)


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those in rows too."""
    for panel in board.get("panels", ()):
        if panel["type"] == "row":
            yield from panels(panel)
        else:
            yield panel


def asked() -> list[Asked]:
    """Every query of every panel."""
    return [
        Asked(uid, panel, target)
        for uid, board in sorted(BOARDS.items())
        for panel in panels(board)
        for target in panel["targets"]
    ]
