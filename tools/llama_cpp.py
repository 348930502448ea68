"""Installs the pinned llama-cpp-python into the environment that runs this script. `make` calls it.

The package comes as source only, and compiling it takes minutes. The wheel that comes out fits this very processor, so
it is kept for the next clone in ``<version>-<platform>-<fingerprint>``; it serves every Python 3.
The cache is a convenience: a wheel that is damaged or cannot be imported is made anew, and where nothing can be
written nothing is kept. ``NODESPAN_WHEELS`` moves it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
# pip's own cache ignores the processor, so a wheel in it may be another machine's.
FROM_SOURCE = ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
BUILD_OPTIONS = ["wheel", "--verbose", "--no-deps", *FROM_SOURCE, "--build-constraint", str(CONSTRAINTS)]
COMPILERS = ("c++", "g++", "clang++")
# Variables that change the build.
BUILD_VARIABLES = ("CC", "CFLAGS", "CMAKE_", "CPPFLAGS", "CXX", "GGML_", "LDFLAGS", "SKBUILD_")
# With AMX llama.cpp crashes at the first prompt of more than one token: the compiler drops the tile configuration that
# it keeps on the stack (its issue 20824, pull request 26954; seen with gcc 12 and llama-cpp-python 0.3.36). These are
# the other instruction sets of every processor that has AMX.
AMX = "amx_int8"
WITHOUT_AMX = ("-DGGML_NATIVE=OFF", *(f"-DGGML_AVX512{part}=ON" for part in ("", "_VBMI", "_VNNI", "_BF16")))
# The library for images and sound, which nodespan does not use: a quarter of the build (140 steps instead of 193).
WITHOUT_MULTIMODAL = ("-DLLAVA_BUILD=OFF",)
PROGRESS_S = 20.0  # interval of progress lines, also in a log


def pinned_version(constraints: str) -> str:
    """The version of llama-cpp-python that the constraints name."""
    found = re.search(r"^llama-cpp-python==(\S+)$", constraints, re.MULTILINE)
    if found is None:
        sys.exit("constraints.txt does not pin llama-cpp-python. Type: make constraints")
    return found[1]


def processor() -> str:
    """The processor's name and instruction sets, as far as the system reports them."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))})
        )
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout
    return platform.processor()


def build_environment(environment: Mapping[str, str], cpu: str) -> dict[str, str]:
    """Environment of the build: the user's, whose ``CMAKE_ARGS`` are not changed."""
    options = (*WITHOUT_MULTIMODAL, *(WITHOUT_AMX if AMX in cpu.split() else ()))
    return {"CMAKE_ARGS": " ".join(options), **environment}


def cache_key(pinned: str, environment: Mapping[str, str], cpu: str) -> str:
    """Key of a compatible wheel: version, platform, C library, processor, compiler flags."""
    flags = sorted(f"{name}={value}" for name, value in environment.items() if name.startswith(BUILD_VARIABLES))
    facts = "\n".join([cpu, *platform.libc_ver(), *flags])
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return f"{pinned}-{sysconfig.get_platform()}-{fingerprint}"


def cache_directory(environment: Mapping[str, str]) -> Path:
    """``NODESPAN_WHEELS``, else a folder of the user's cache directory."""
    if chosen := environment.get("NODESPAN_WHEELS"):
        return Path(chosen)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodespan" / "wheels"


def works() -> bool:
    """Whether llama.cpp can be loaded; in a separate process, because an unsupported instruction kills it."""
    return subprocess.run([sys.executable, "-c", "import llama_cpp"], check=False, capture_output=True).returncode == 0


def installed(pinned: str) -> bool:
    """Whether the pinned version is in this environment and can be loaded."""
    with contextlib.suppress(PackageNotFoundError):
        return version("llama-cpp-python") == pinned and works()
    return False


def install(wheel: Path) -> None:
    """Installs a wheel and its dependencies in this environment."""
    subprocess.run([*PIP, "install", "--quiet", "--force-reinstall", "--no-deps", str(wheel)], check=True)
    subprocess.run([*PIP, "install", "--quiet", "-c", str(CONSTRAINTS), "llama-cpp-python"], check=True)


def install_from_cache(folder: Path) -> bool:
    """Installs the kept wheel, if there is one and it works."""
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        return False
    try:
        with zipfile.ZipFile(wheel) as archive:
            intact = archive.testzip() is None
        if intact:
            install(wheel)
            intact = works()
    except (OSError, zipfile.BadZipFile, subprocess.CalledProcessError):
        intact = False
    print(f"llama-cpp-python: the wheel built earlier {'is used' if intact else 'does not work'}: {wheel}", flush=True)
    return intact


def build(pinned: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """Compiles the wheel into ``folder``; prints the progress, and on failure the reason."""
    if not os.environ.get("CXX") and not any(map(shutil.which, COMPILERS)):
        sys.exit("llama-cpp-python must be compiled and there is no C++ compiler. On Debian: apt install g++")
    print(f"llama-cpp-python {pinned}: compiling, 5 to 10 minutes on two cores; done once", flush=True)
    command = [*PIP, *BUILD_OPTIONS, "--wheel-dir", str(folder), f"llama-cpp-python=={pinned}"]
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1), **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as pip:
        lines = list(_shown(pip.stdout or ()))
    if pip.returncode:
        print(*lines[-60:], sep="", flush=True)
        sys.exit("llama-cpp-python could not be built; the lines above have the reason.")
    return next(folder.glob("*.whl"))


def _shown(lines: Iterator[str] | tuple[()]) -> Iterator[str]:
    """Collects the build's lines; prints the current step at intervals, such as ``42%`` or ``17/230``."""
    start = last = time.monotonic()
    for line in lines:
        yield line
        step = re.match(r"\s*\[([\s\d/%]+)\] ", line)
        if step and time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            print(f"  {last - start:4.0f} s  {step[1].strip()}", flush=True)


def keep(wheel: Path, folder: Path) -> None:
    """Stores a wheel in the cache atomically."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{wheel.name}.{os.getpid()}.part"
        shutil.copyfile(wheel, part)
        part.replace(folder / wheel.name)
        print(f"llama-cpp-python: kept for the next clone in {folder}", flush=True)
    except OSError as error:
        print(f"llama-cpp-python: not kept for the next clone: {error}", flush=True)


def main() -> None:
    """Installs from the cache, or builds, installs and stores."""
    pinned = pinned_version(CONSTRAINTS.read_text())
    if installed(pinned):
        return
    cpu = processor()
    environment = build_environment(os.environ, cpu)
    folder = cache_directory(os.environ) / cache_key(pinned, environment, cpu)
    if install_from_cache(folder):
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build(pinned, Path(scratch), environment)
        install(wheel)
        if not works():
            sys.exit('llama-cpp-python was built but cannot be loaded. See why: .venv/bin/python -c "import llama_cpp"')
        keep(wheel, folder)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the next make builds it again")
