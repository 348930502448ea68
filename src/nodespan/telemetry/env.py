"""OTEL_* variables. An invalid one is a reported problem, not an error: many programs may share the variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, TypeVar

from nodespan.spans.log import warn

_T = TypeVar("_T")
_MOST: Final = 1e12
"""In ms about 30 years; locks reject a timeout of ten times that."""
_collected: Final[ContextVar[list[str] | None]] = ContextVar("nodespan-problems", default=None)


@contextmanager
def collecting_problems() -> Generator[list[str]]:
    """Collects the problems found in the block instead of logging them."""
    problems: list[str] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


@contextmanager
def reporting_problems_once() -> Generator[None]:
    """Logs each problem of the block once, at its end: a variable is read for several signals."""
    with collecting_problems() as problems:
        try:
            yield
        finally:
            for text in problems:
                _log(text)


def report_problem(text: str) -> None:
    """Logs a problem of a variable, or collects it."""
    problems = _collected.get()
    if problems is None:
        _log(text)
    elif text not in problems:
        problems.append(text)


def _log(text: str) -> None:
    warn("configure.invalid_variable", "%s", text)


def text_of(*names: str) -> tuple[str, str]:
    """Name and value of the first variable that is set; both empty if none is."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            return name, value
    return "", ""


def choice(names: Sequence[str], allowed: Sequence[_T], default: _T) -> _T:
    """The value of the first variable that is set, in any case; the default where it is not one of the allowed."""
    name, value = text_of(*names)
    found = next((each for each in allowed if each == value.lower()), None)
    if value and found is None:
        report_problem(f"{name} is {value!r}; it can be {', '.join(map(str, allowed))}. {default} is used.")
    return default if found is None else found


def number(names: Sequence[str], default: float, check: Callable[[float], bool] = lambda value: value > 0) -> float:
    """The number in the first variable that is set; the default where it is not a number above 0."""
    name, value = text_of(*names)
    if not value:
        return default
    try:
        found = float(value)
        if check(found) and found <= _MOST:
            return found
    except ValueError:
        pass
    report_problem(f"{name} is {value!r}; it must be a number above 0, at most {_MOST:g}. {default:g} is used.")
    return default


def file(*names: str) -> str | None:
    """The path in the first variable that is set; ``None`` if the file does not exist."""
    name, value = text_of(*names)
    if value and not Path(value).is_file():
        report_problem(f"{name} is {value!r}, and the file does not exist; it must be a PEM file. It is ignored.")
        return None
    return value or None
