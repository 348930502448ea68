"""Values of a server's JSON, of which any may be missing or of another type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

Object = Mapping[str, Any]


def as_object(value: object) -> Object:
    """The object, or an empty one in place of anything else."""
    return cast("Object", value) if isinstance(value, Mapping) else {}


def as_objects(value: object) -> list[Object]:
    """The objects of a list; nothing in place of anything else."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [as_object(item) for item in items]


def as_count(value: object) -> int | None:
    """A whole number from 0."""
    return value if type(value) is int and value >= 0 else None


def as_seconds(value: object, unit_s: float) -> float | None:
    """A time in seconds, given in a unit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return value * unit_s
    return None


def as_text(value: object) -> str:
    """The text, or an empty one in place of anything else."""
    return value if isinstance(value, str) else ""
