"""The random key beside a store. Hashes that leave a process or are stored are keyed with it."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from nodespan.errors import ConfigurationError
from nodespan.spans.log import is_first, warn
from nodespan.store.database import MEMORY

HASH_KEY: Final = "NODESPAN_HASH_KEY"
_LEAST_CHARACTERS: Final = 16
_BYTES: Final = 32
_of_memory: Final = secrets.token_bytes(_BYTES)


def secret_path(path: Path) -> Path:
    """The key's file: ``nodespan.key`` beside ``nodespan.db``."""
    return path.with_suffix(".key")


def load_secret(path: Path) -> bytes:
    """The key of the store at this path, 32 random bytes, created with mode 0600 on first use.

    The key of a store in memory, and of one whose key cannot be read or written, exists as long as the process.
    """
    if path == MEMORY:
        return _of_memory
    place = secret_path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(place)
        found = place.read_bytes()
        if len(found) == _BYTES:
            return found
        problem = "it is damaged, delete the file"
    except OSError as error:
        problem = str(error)
    if is_first("store.no_key", place):
        warn("store.no_key", "The store's key %s cannot be used (%s): a temporary key is used.", place, problem)
    return _of_memory


def hash_key(path: Path | None) -> bytes | None:
    """The key of the hashes of written values: ``NODESPAN_HASH_KEY``, else one derived from the store's key.

    Args:
        path: The store; ``None`` without a store, in which case only the variable gives a key.

    Raises:
        ConfigurationError: ``NODESPAN_HASH_KEY`` is too short to be a secret.
    """
    given = os.environ.get(HASH_KEY, "")
    if given and len(given) < _LEAST_CHARACTERS:
        raise ConfigurationError(
            f"{HASH_KEY} has {len(given)} characters. Give at least {_LEAST_CHARACTERS} random ones. Type: "
            "export NODESPAN_HASH_KEY=$(openssl rand -hex 32)"
        )
    secret = given.encode("utf-8", "surrogateescape") if given else None if path is None else load_secret(path)
    return None if secret is None else hmac.digest(secret, b"nodespan written values", "sha256")


def _create(place: Path) -> None:
    """Creates the file with its content in one step, unless it exists."""
    if place.exists():
        return
    new = place.with_name(f"{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_BYTES))
        os.close(handle)
        os.link(new, place)
    except FileExistsError:  # another process has created it
        pass
    finally:
        new.unlink(missing_ok=True)
