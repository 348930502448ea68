"""Find chromium, and install Debian's package where it is missing: `make browser`.

The tests of the viewer's page and `make pictures` need it. ``NODESPAN_CHROMIUM`` names another executable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Path of the executable; ``None`` if there is none."""
    chosen = os.environ.get("NODESPAN_CHROMIUM")
    return chosen or next((path for path in map(shutil.which, NAMES) if path), None)


def install() -> str | None:
    """Install Debian's package, as root or by sudo without a password; ``None`` if that is not possible."""
    apt = shutil.which("apt-get")
    sudo = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if apt is None or (sudo and shutil.which("sudo") is None):
        return None
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ["chromium", "fonts-dejavu-core"]
    for command in ([apt, "update", "-qq"], [apt, "install", "-y", "-qq", "--no-install-recommends", *packages]):
        print(f"Set-up: {' '.join(command)}", flush=True)
        done = subprocess.run([*sudo, *command], env=environment, check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            return None
    return find()


def main() -> None:
    """Prints the path, or how to install chromium."""
    if found := find() or install():
        print(f"chromium: {found}")
        return
    banner = "!" * 100
    sys.exit(
        f"{banner}\nNO BROWSER: the tests of the viewer's page do NOT run. chromium was not found and could not be "
        f"installed.\nInstall it (Debian: apt install chromium) or name one in NODESPAN_CHROMIUM.\n{banner}"
    )


if __name__ == "__main__":
    main()
