"""The arguments of a call of LangChain's ``Runnable`` protocol: ``invoke(input, config)`` and its like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def call_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[object, Mapping[str, Any]]:
    """Input and config of a call such as ``stream(input, config)``."""
    run_input = args[0] if args else kwargs.get("input")
    config = args[1] if len(args) > 1 else kwargs.get("config")
    return run_input, config or {}


def with_config(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of such a call with another config."""
    if len(args) > 1:
        return (args[0], config, *args[2:]), dict(kwargs)
    return args, {**kwargs, "config": config}
