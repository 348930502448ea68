"""Texts of states and phases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from nodespan.cli._output import safe

if TYPE_CHECKING:
    from nodespan.store.records import PhaseRecord, ProcessRecord, State

SHORT_ID: Final = 8
STYLES: Final = {"running": "green", "silent": "yellow", "lost": "red", "ended": ""}


def state_text(state: State, process: ProcessRecord | None) -> str:
    """A state: ``running``, ``silent for 7 s``, ``lost at 12:03:11``, ``ended``."""
    if process is None or state in ("running", "ended"):
        return state
    if state == "silent":
        return "silent" if process["silent_s"] is None else f"silent for {process['silent_s']:.0f} s"
    return f"lost at {_clock(process['heartbeat_ns'])}"


def phase_text(phase: PhaseRecord | None) -> str:
    """A phase: ``queued behind 2``, ``loading``, ``prefilling 62 %``, ``decoding 41 tokens``, ``tool search``."""
    if phase is None:
        return ""
    name, done, total = phase["name"], phase["done"], phase["total"]
    if name == "queued" and phase["position"] is not None:
        return f"queued behind {phase['position']}"
    if name == "prefilling" and done is not None and total:
        return f"prefilling {100 * done // total} % of {total} tokens"
    if name == "decoding" and done is not None:
        return f"decoding {done} tokens"
    return safe(f"{name} {phase['text']}".strip())


def lost_text(process: ProcessRecord | None, phase: PhaseRecord | None) -> str:
    """State and phase of an open span: ``lost at 12:03:11 while prefilling 62 % of 1310 tokens``."""
    state = state_text("lost", process)
    return state if phase is None else f"{state} while {phase_text(phase)}"


def _clock(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).astimezone().strftime("%H:%M:%S")
