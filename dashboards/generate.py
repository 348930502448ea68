"""Writes json/, the boards in Grafana's format. Type: make dashboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.models import models
from dashboards.telemetry import telemetry
from dashboards.workflows import workflows

FOLDER: Final = Path(__file__).with_name("json")


def files() -> dict[str, str]:
    """Name and text of each file."""
    boards = [make().build() for make in (workflows, models, telemetry)]
    return {
        f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, sort_keys=True, indent=2) + "\n" for board in boards
    }


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
