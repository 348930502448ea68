"""``OTEL_PROPAGATORS`` with a propagator that is not installed.

OpenTelemetry's API reads the variable when ``opentelemetry.propagate`` is imported, and raises there: no program that
imports it would start. This module imports it first, with the default where the value is invalid.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Final

VARIABLE: Final = "OTEL_PROPAGATORS"


def _import() -> str | None:
    try:
        import_module("opentelemetry.propagate")
    except ValueError:
        given = os.environ.pop(VARIABLE)
        try:
            import_module("opentelemetry.propagate")
        finally:
            os.environ[VARIABLE] = given
        return given
    return None


invalid: Final = _import()
"""The value that is not used; ``None`` if it is valid."""
