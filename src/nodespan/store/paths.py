"""Paths of the store's files."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_data_path

_NAME = "nodespan.db"
_OLD_NAME = "spans.db"
"""File name of the schemas without a separate file for the search index."""


def default_path() -> Path:
    """``nodespan.db`` in the user's data directory for nodespan.

    Raises:
        RuntimeError: The user has no home directory.
    """
    return _folder() / _NAME


def index_path(path: Path) -> Path:
    """The search index beside an outbox: ``nodespan.index.db`` beside ``nodespan.db``."""
    return path.with_name(f"{path.stem}.index{path.suffix}")


def old_stores() -> list[Path]:
    """Stores of earlier versions in the default folder. nodespan neither reads nor changes them."""
    try:
        old = _folder() / _OLD_NAME
    except RuntimeError:
        return []
    return [old] if old.is_file() else []


def is_default(path: Path) -> bool:
    """Whether the path is the default one, in nodespan's own folder."""
    try:
        return path == default_path()
    except RuntimeError:
        return False


def _folder() -> Path:
    return user_data_path("nodespan", appauthor=False)
