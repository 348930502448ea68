"""The time of `import nodespan`, over a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from bench.measure import Figure, Size, added, figure, interleaved, median

TITLE = "Importing nodespan"
ROUNDS = {"quick": 2, "normal": 40, "full": 150}


def run(size: Size) -> list[Figure]:
    variants = {"bare": ms_of("pass"), "nodespan": ms_of("import nodespan")}
    columns = interleaved(variants, ROUNDS[size])
    of = "new processes"
    return [
        figure("python -c pass", "ms", columns, median("bare"), of=of),
        figure("import nodespan, added", "ms", columns, added("nodespan", "bare"), "<= 20", of),
    ]


def ms_of(statement: str) -> Callable[[], float]:
    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return (time.perf_counter() - started) * 1e3

    return once
