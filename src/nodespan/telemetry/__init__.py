"""Set-up and providers of the OpenTelemetry SDK."""

from __future__ import annotations

from nodespan.delivery.ledger import DeliveryReport
from nodespan.telemetry.setup import Telemetry, configure

__all__ = ["DeliveryReport", "Telemetry", "configure"]
