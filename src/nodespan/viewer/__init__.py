"""The viewer: runs of a store on pages that a browser shows, live, and a receiver of OTLP."""

from __future__ import annotations

from nodespan.viewer.settings import ViewerSettings

__all__ = ["ViewerSettings"]
