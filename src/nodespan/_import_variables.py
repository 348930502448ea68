"""Variables that OpenTelemetry reads when one of its modules is imported, and for whose invalid values it raises there.

No program that imports the module would start. It is imported here first, with the default where the value is invalid.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Final

_MODULES: Final = {
    "OTEL_PROPAGATORS": "opentelemetry.propagate",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "opentelemetry.sdk.trace",
}

INVALID: Final[dict[str, str]] = {}
"""Variables whose values are not used."""


def import_readers() -> None:
    """Imports the modules whose variable is set."""
    for variable, module in _MODULES.items():
        if variable not in os.environ:
            continue
        try:
            import_module(module)
        except ValueError:
            INVALID[variable] = os.environ.pop(variable)
            try:
                import_module(module)
            finally:
                os.environ[variable] = INVALID[variable]
