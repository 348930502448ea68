"""Where the store is and how much it keeps, as the environment says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

from nodespan.errors import ConfigurationError
from nodespan.store.outbox import SqliteStore, StoreLimits

STORE: Final = "NODESPAN_STORE"
MAX_BYTES: Final = "NODESPAN_STORE_MAX_BYTES"
MAX_AGE_S: Final = "NODESPAN_STORE_MAX_AGE_S"


def open_store() -> SqliteStore:
    """The store that the environment asks for.

    Raises:
        ConfigurationError: A limit is no positive number.
    """
    usual = StoreLimits()
    limits = StoreLimits(
        round(positive_variable(MAX_BYTES, usual.max_bytes)), positive_variable(MAX_AGE_S, usual.max_age_s)
    )
    return SqliteStore(store_path(), limits)


def default_path() -> Path:
    """``spans.db`` in the user's data directory for nodespan."""
    return user_data_path("nodespan", appauthor=False) / "spans.db"


def store_path() -> Path:
    """What ``NODESPAN_STORE`` names, else the default."""
    chosen = os.environ.get(STORE, "").strip()
    return Path(chosen).expanduser() if chosen else default_path()


def positive_variable(name: str, usual: float) -> float:
    """The number in an environment variable, or the usual one.

    Raises:
        ConfigurationError: It is no number above 0.
    """
    given = os.environ.get(name, "").strip()
    try:
        value = float(given) if given else usual
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} is {given!r}. Give a number above 0, such as {usual:.0f}, the default.")
    return value
