"""Output of commands: text that cannot control a terminal, and standard JSON."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console as RichConsole
from rich.control import Control
from rich.segment import ControlType, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

_PLAIN_WIDTH: Final = 10_000
_ESCAPED: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: controls (ESC among them), formats (bidirectional overrides among them), surrogates, line and
paragraph separators."""
_JOINERS: Final = frozenset("\u200c\u200d")
"""Formats that emoji and some scripts require; they affect only the shape of adjacent characters."""


def safe(text: str) -> str:
    r"""One line of text without effect on a terminal: controls are escaped as in Python (``\x1b``, ``\u202e``)."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return ascii(character)[1:-1]


class Console(RichConsole):
    """A console for text of any origin: no markup, no emoji codes, no highlighting, no control characters.

    Lines are not cut, and have no colours, where the output is not a terminal.

    Args:
        stderr: Print to standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)
        if not self.is_terminal:
            self.no_color = True
            self.width = _PLAIN_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escapes controls in the rendered text; rich adds the escape sequences of colours afterwards."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(safe, segment.text.split("\n"))), segment.style)

    def on_broken_pipe(self) -> None:
        """Raises the error, as for other output; rich would exit with 1."""
        raise BrokenPipeError

    def progress(self, text: str) -> None:
        """Shows a line that the next output replaces; nothing where the output is not a terminal."""
        if self.is_terminal:
            self.control(Control((ControlType.ERASE_IN_LINE, 2)))
            self.print(text, style="dim", end="", no_wrap=True, overflow="crop")
            self.control(Control((ControlType.CARRIAGE_RETURN,)))


def print_json(value: Any) -> None:
    """Prints one JSON document in ASCII.

    Values of spans come from the read model: its records have non-finite numbers as ``"NaN"``, ``"Infinity"`` and
    ``"-Infinity"`` and bytes in base64, as in OTLP's JSON.

    Raises:
        ValueError: Another value is not finite.
    """
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


def replace_unencodable() -> None:
    """Makes standard output and error write ``?`` for characters that their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
