"""Where the store's file is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

STORE: Final = "NODESPAN_STORE"


def default_path() -> Path:
    """``spans.db`` in the user's data directory for nodespan."""
    return user_data_path("nodespan", appauthor=False) / "spans.db"


def store_path() -> Path:
    """What ``NODESPAN_STORE`` names, else the default."""
    chosen = os.environ.get(STORE, "").strip()
    return Path(chosen).expanduser() if chosen else default_path()
