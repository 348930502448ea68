"""Copies the programs of the stack from the images that `.env` pins: for machines with docker and without go.

They are static, so on Linux they run outside of their images as well, in the same tests as those that are built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ENV_FILE = Path(__file__).resolve().parents[2] / ".env"
# Path of a program in its image; without a path the image's entry point.
PROGRAMS = {
    "otelcol": ("COLLECTOR_IMAGE", ""),
    "jaeger": ("JAEGER_IMAGE", ""),
    "prometheus": ("PROMETHEUS_IMAGE", ""),
    "promtool": ("PROMETHEUS_IMAGE", "/bin/promtool"),
}


def has_engine() -> bool:
    """Whether docker is installed and its engine is available."""
    return shutil.which("docker") is not None and _docker("version").returncode == 0


def pins() -> dict[str, str]:
    """The images by variable name."""
    return dict(re.findall(r"^(\w+_IMAGE)=(\S+)$", ENV_FILE.read_text(), re.MULTILINE))


def programs_from_images(cache: Path) -> dict[str, Path]:
    """The path of each program; missing ones are copied from their images, which docker downloads.

    Raises:
        RuntimeError: Docker did not print one; with its output.
    """
    images = pins()
    found: dict[str, Path] = {}
    for name, (variable, inside) in PROGRAMS.items():
        image = images[variable]
        folder = cache / re.sub(r"[^\w.-]", "-", image)
        if not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            print(f"{name}: from {image}", flush=True)
            _copy_out(image, inside, folder / name)
        found[name] = folder / name
    return found


def _copy_out(image: str, inside: str, target: Path) -> None:
    container = _asked("create", image)
    try:
        path = inside or _asked("inspect", "--format", "{{.Path}}", container)
        part = target.with_suffix(".part")
        _asked("cp", f"{container}:{path}", str(part))
        part.replace(target)
    finally:
        _docker("rm", container)


def _asked(*arguments: str) -> str:
    ran = _docker(*arguments)
    if ran.returncode:
        raise RuntimeError(f"`docker {' '.join(arguments)}` failed: {ran.stderr.strip()}")
    return ran.stdout.strip()


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)
