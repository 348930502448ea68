"""The programs of docs/delivery.md run unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text()


def test_the_program_of_the_page_runs_and_loses_no_span(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "NODESPAN_STORE": str(tmp_path / "spans.db")}
    done = subprocess.run(
        [sys.executable, "-c", block], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "spans.db").exists()
