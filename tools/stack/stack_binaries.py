"""Build the programs of the stack from published Go modules, and fetch Kafka's jars.

The tests of the stack and `make stack-local` run ``PARTS``; the tests of scale also run ``SCALE_PARTS``. A cold build
takes about ten minutes on two cores, so each part is stored outside the clone, in a folder named by the hash of its
manifest and of the compiler; ``NODESPAN_STACK_CACHE`` sets another place. A part is built in a temporary folder,
which is renamed after its binaries have printed their versions, so that an interrupted build leaves no incomplete
part. Without go the programs of ``PARTS`` come from docker images, see ``stack_images``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import stack_images

MANIFESTS = Path(__file__).resolve().parent
GO_NEEDED = (1, 26)
# No version control stamp and no C compiler; the installed toolchain, never one that go downloads.
GO_ENVIRONMENT = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=mod"}
PROGRESS_S = 20.0  # interval of progress lines, also in a log


@dataclass(frozen=True, slots=True)
class Part:
    """The programs built from one manifest.

    Attributes:
        binaries: The programs, each with the argument that makes it print its version.
        build: Compiles them in a scratch folder that holds a copy of the manifest.
        kept: Other files and folders of the scratch folder that the programs need.
    """

    name: str
    binaries: Mapping[str, str]
    build: Callable[[Path], None]
    kept: tuple[str, ...] = ()


class BuildError(Exception):
    """A part could not be built; the message is printed."""


def go(folder: Path, *arguments: str) -> None:
    """Run go in ``folder``; print the progress, and on failure the end of the output."""
    _run(["go", *arguments], folder, {**os.environ, **GO_ENVIRONMENT, "GOBIN": str(folder), "GOWORK": "off"})


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = list(_shown(process.stdout or ()))
    if process.returncode:
        print(*lines[-40:], sep="", flush=True)
        raise BuildError(f"`{' '.join(command[:2])}` failed; the lines above have the reason")


def ask_go(*arguments: str, cwd: Path) -> str:
    """The output of go."""
    environment = {**os.environ, **GO_ENVIRONMENT}
    command = ["go", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def _shown(lines: Iterable[str]) -> Iterator[str]:
    """Collects the build's lines; prints the number of finished packages at intervals."""
    start = last = time.monotonic()
    for number, line in enumerate(lines, 1):
        yield line
        if time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            print(f"  {last - start:4.0f} s  {number} packages, now {line.strip()}", flush=True)


def find(pattern: str, path: Path) -> str:
    """The text that the pattern's group matches in a file."""
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{path.name} has no line like {pattern}")
    return found[1]


def build_collector(folder: Path) -> None:
    """Runs ocb to write the sources beside our go.mod, and compiles them; its `go mod tidy` adds unused modules."""
    version = find(r"^  version: (\S+)$", folder / "builder.yaml")
    go(folder, "install", "-mod=readonly", f"go.opentelemetry.io/collector/cmd/builder@v{version}")
    written = subprocess.run(
        [str(folder / "builder"), "--config=builder.yaml", "--skip-get-modules", "--skip-compilation"],
        cwd=folder, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if written.returncode:
        raise BuildError(f"ocb does not accept {MANIFESTS / 'collector' / 'builder.yaml'}:\n{written.stderr}")
    go(folder, "build", "-v", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", "otelcol", ".")


def build_jaeger(folder: Path) -> None:
    """Compiles Jaeger, whose old dependencies are verified by its published go.sum."""
    module = "github.com/jaegertracing/jaeger"
    go(folder, "mod", "download", module)
    published = Path(ask_go("list", "-m", "-f", "{{.Dir}}", module, cwd=folder).strip())
    (folder / "go.sum").write_bytes((published / "go.sum").read_bytes())
    version = find(rf"^require {module} v\S+ // = Jaeger (\S+)", folder / "go.mod")
    flags = f"-s -w -X {module}/internal/version.latestVersion=v{version}"
    go(folder, "build", "-v", "-ldflags", flags, "-o", "jaeger", f"{module}/cmd/jaeger")


def build_prometheus(folder: Path) -> None:
    """Compiles Prometheus and promtool without service discovery, which has most of the dependencies."""
    module = "github.com/prometheus/prometheus"
    version = find(rf"^require {module} v\S+ // = v(\S+)$", folder / "go.mod")
    flags = f"-s -w -X github.com/prometheus/common/version.Version={version}"  # set by the linker only
    for name in ("prometheus", "promtool"):
        go(folder, "build", "-v", "-tags", "remove_all_sd,netgo", "-ldflags", flags, "-o", name, f"{module}/cmd/{name}")


def build_compose(folder: Path) -> None:
    """Compiles the parser of compose files, which validates them as docker compose does, without docker."""
    go(folder, "build", "-v", "-ldflags", "-s -w", "-o", "compose-config", ".")


def build_victoria(folder: Path) -> None:
    """Compile VictoriaMetrics and VictoriaLogs, which vendor their dependencies."""
    module = "github.com/VictoriaMetrics"
    for name, repository in (("victoria-metrics", "VictoriaMetrics"), ("victoria-logs", "VictoriaLogs")):
        version = find(rf"^\t{module}/{repository} v(\S+)$", folder / "go.mod")
        flags = f"-s -w -X {module}/VictoriaMetrics/lib/buildinfo.Version={name}-{version}"
        go(folder, "build", "-v", "-ldflags", flags, "-o", name, f"{module}/{repository}/app/{name}")


def fetch_kafka(folder: Path) -> None:
    """Run Maven to copy the jars beside the script ``kafka`` that runs them."""
    command = ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies"]
    _run([*command, "-DoutputDirectory=jars", "-DincludeScope=runtime"], folder, os.environ)


PARTS = (
    Part("collector", {"otelcol": "--version"}, build_collector),
    Part("prometheus", {"prometheus": "--version", "promtool": "--version"}, build_prometheus),
    Part("jaeger", {"jaeger": "version"}, build_jaeger),
    Part("compose", {"compose-config": "--version"}, build_compose),
)
SCALE_PARTS = (
    Part("kafka", {"kafka": "--version"}, fetch_kafka, kept=("jars",)),
    Part("victoria", {"victoria-metrics": "--version", "victoria-logs": "--version"}, build_victoria),
)
NEEDED_BY_KAFKA = ("java", "mvn")


def cache_directory(environment: Mapping[str, str]) -> Path:
    """``NODESPAN_STACK_CACHE``, else a folder of the user's cache directory."""
    if chosen := environment.get("NODESPAN_STACK_CACHE"):
        return Path(chosen)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodespan" / "stack"


def cache_key(part: Part, manifests: Path, go_version: str) -> str:
    """Key of a build, from the part's manifest and the compiler."""
    digest = hashlib.sha256(go_version.encode())
    for path in sorted((manifests / part.name).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{part.name}-{digest.hexdigest()[:16]}"


def installed_go() -> str:
    """Version and platform as `go env` reports them.

    Raises:
        BuildError: There is no go, or one that is too old.
    """
    wanted = ".".join(map(str, GO_NEEDED))
    if shutil.which("go") is None:
        raise BuildError(
            f"neither go nor a docker engine is installed. Install go {wanted} or newer, https://go.dev/doc/install"
        )
    facts = ask_go("env", "-json", "GOVERSION", "GOOS", "GOARCH", cwd=MANIFESTS)
    version = json.loads(facts)["GOVERSION"]
    found = re.match(r"go(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < GO_NEEDED:
        raise BuildError(f"{version} is too old: go {wanted} or newer is required (https://go.dev/doc/install)")
    return facts


def reported_version(binary: Path, argument: str) -> str | None:
    """The first line of a binary's version, or ``None`` if it does not run."""
    try:
        ran = subprocess.run([str(binary), argument], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (ran.stdout or ran.stderr).splitlines()
    return lines[0] if ran.returncode == 0 and lines else None


def works(part: Part, folder: Path) -> bool:
    """Whether every binary of the part exists and runs."""
    return all(reported_version(folder / name, argument) for name, argument in part.binaries.items())


def make(part: Part, cache: Path, folder: Path) -> None:
    """Builds a part in a temporary folder and renames it atomically."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{part.name}-") as scratch:
        shutil.copytree(MANIFESTS / part.name, scratch, dirs_exist_ok=True)
        start = time.monotonic()
        print(f"{part.name}: building; done once", flush=True)
        part.build(Path(scratch))
        result = Path(scratch) / "result"
        result.mkdir()
        for name in (*part.kept, *part.binaries):
            (Path(scratch) / name).replace(result / name)
        for name, argument in part.binaries.items():
            if (found := reported_version(result / name, argument)) is None:
                raise BuildError(f"{name} was built but `{name} {argument}` does not work")
            print(f"{part.name}: {found} ({time.monotonic() - start:.0f} s)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)  # a part that does not work
        try:
            result.rename(folder)
        except OSError:  # another process was faster
            if not works(part, folder):
                raise


def can_be_had() -> bool:
    """Whether the programs can be built or copied from images."""
    return shutil.which("go") is not None or stack_images.has_engine()


def missing_for_scale() -> list[str]:
    """Missing commands that the tests of scale require."""
    return [command for command in ("go", *NEEDED_BY_KAFKA) if shutil.which(command) is None]


def scale_binaries() -> dict[str, Path]:
    """The path of each program of the tests of scale; missing ones are built or fetched first.

    Raises:
        BuildError: A command is missing, or a part could not be built.
    """
    if missing := missing_for_scale():
        raise BuildError(f"not installed: {', '.join(missing)}. Install go, and Java 17 or newer with Maven")
    return _built((*PARTS, *SCALE_PARTS))


def binaries() -> dict[str, Path]:
    """The path of each program of the stack; missing ones are built, or without go copied from docker images.

    Raises:
        BuildError: A part could not be built.
    """
    cache = cache_directory(os.environ)
    if shutil.which("go") is None and stack_images.has_engine():
        try:
            return stack_images.programs_from_images(cache)
        except RuntimeError as error:
            raise BuildError(str(error)) from None
    return _built(PARTS)


def _built(parts: Iterable[Part]) -> dict[str, Path]:
    cache = cache_directory(os.environ)
    compiler = installed_go()
    found: dict[str, Path] = {}
    for part in parts:
        folder = cache / cache_key(part, MANIFESTS, compiler)
        if not works(part, folder):
            make(part, cache, folder)
        found |= {name: folder / name for name in part.binaries}
    return found


def main(arguments: Sequence[str]) -> None:
    """Build the missing programs and print all paths; ``scale`` includes those of the tests of scale."""
    try:
        for name, path in (scale_binaries() if arguments == ["scale"] else binaries()).items():
            print(f"{name:16} {path}", flush=True)
    except BuildError as error:
        sys.exit(f"stack-binaries: {error}.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("interrupted; the next call builds what is missing")
