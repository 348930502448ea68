"""The entry points of nodespan for ``opentelemetry-instrument``."""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.distro import BaseDistro

from nodespan.telemetry.settings import Settings
from nodespan.telemetry.setup import Telemetry


class NodespanDistro(BaseDistro):
    """Declares nodespan as the distribution. It changes no variable: ``configure()`` has the defaults."""

    def _configure(self, **kwargs: Any) -> None:
        """Nothing to do."""


class NodespanConfigurator:
    """Sets up the providers before libraries are instrumented. Without a configurator nothing would be recorded."""

    def configure(self, **kwargs: Any) -> None:
        """Configures from the ``OTEL_*`` variables, as ``configure()``."""
        del kwargs
        Telemetry.of(Settings(zero_code=True), None)
