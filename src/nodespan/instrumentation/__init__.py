"""Instrumentors of the libraries nodespan knows. They do not know each other."""

from __future__ import annotations
