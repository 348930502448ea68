"""The store that the environment selects, and its limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from nodespan.errors import ConfigurationError
from nodespan.spans.log import warn
from nodespan.store.database import MEMORY
from nodespan.store.outbox import SqliteStore, StoreLimits
from nodespan.store.paths import default_path

STORE: Final = "NODESPAN_STORE"
MAX_BYTES: Final = "NODESPAN_STORE_MAX_BYTES"
MAX_AGE_S: Final = "NODESPAN_STORE_MAX_AGE_S"


def open_store() -> SqliteStore:
    """The store that the environment names.

    Raises:
        ConfigurationError: A limit is not a positive number.
    """
    usual = StoreLimits()
    limits = StoreLimits(
        round(positive_variable(MAX_BYTES, usual.max_bytes)), positive_variable(MAX_AGE_S, usual.max_age_s)
    )
    return SqliteStore(store_path(), limits)


def store_path() -> Path:
    """The value of ``NODESPAN_STORE``, else the default; ``MEMORY`` with a warning where there is no home directory."""
    chosen = os.environ.get(STORE, "").strip()
    try:
        return Path(chosen).expanduser() if chosen else default_path()
    except RuntimeError as error:  # no HOME, and no entry of the user in the password database
        message = (
            "There is no folder for the local store (%s): spans are kept in memory until the process ends. Set %s."
        )
        warn("store.no_home", message, error, f"{STORE}=/path/to/nodespan.db")
        return MEMORY


def positive_variable(name: str, usual: float) -> float:
    """The number in an environment variable, or the usual one.

    Raises:
        ConfigurationError: It is not a number above 0.
    """
    given = os.environ.get(name, "").strip()
    try:
        value = float(given) if given else usual
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} is {given!r}. Give a number above 0, such as {usual:.0f}, the default.")
    return value
