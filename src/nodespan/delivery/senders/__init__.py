"""OTLP over HTTP and gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodespan.delivery.destination import Destination, Signal
    from nodespan.delivery.senders.answer import Sender


def make_sender(destination: Destination, signal: Signal = "traces") -> Sender:
    """The sender of the destination's protocol; gRPC is imported only where it is used."""
    if destination.protocol == "grpc":
        from nodespan.delivery.senders.otlp_grpc import GrpcSender

        return GrpcSender(destination, signal)
    from nodespan.delivery.senders.otlp_http import HttpSender

    return HttpSender(destination)
