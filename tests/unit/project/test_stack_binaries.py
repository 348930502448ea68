"""The programs of the stack are built once per manifest and compiler, and failures are reported as text."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stack_binaries
import stack_images
import stack_local
import stack_programs
from stack_binaries import PARTS, BuildError, Part


def a_part(script: str, name: str = "collector") -> Part:
    """Something that is built at once: a shell script."""

    def build(folder: Path) -> None:
        program = folder / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return Part(name, {"program": "--version"}, build)


def test_the_key_depends_on_manifest_and_compiler(tmp_path: Path) -> None:
    part = PARTS[0]
    shutil.copytree(stack_binaries.MANIFESTS / part.name, tmp_path / part.name)
    same = stack_binaries.cache_key(part, tmp_path, "go1.26")
    assert same == stack_binaries.cache_key(part, tmp_path, "go1.26")
    others = {stack_binaries.cache_key(part, tmp_path, "go1.27")}
    (tmp_path / part.name / "go.mod").write_text("module other\n")
    others.add(stack_binaries.cache_key(part, tmp_path, "go1.26"))
    assert len({same, *others}) == 3


def test_the_cache_can_be_moved(tmp_path: Path) -> None:
    where = stack_binaries.cache_directory
    assert where({"NODESPAN_STACK_CACHE": str(tmp_path)}) == tmp_path
    assert where({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "nodespan" / "stack"
    assert where({}) == Path.home() / ".cache" / "nodespan" / "stack"


def test_a_part_is_kept_when_its_programs_print_their_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = a_part("echo program 1.0")
    stack_binaries.make(part, tmp_path, tmp_path / "kept")
    assert stack_binaries.works(part, tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]  # and no scratch folder
    assert "program 1.0" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["exit 1", "exec /nowhere/at/all"])
def test_a_program_that_does_not_run_is_not_kept(tmp_path: Path, script: str) -> None:
    with pytest.raises(BuildError, match="does not work"):
        stack_binaries.make(a_part(script), tmp_path, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_of_the_cache_is_rebuilt(tmp_path: Path) -> None:
    part = a_part("echo 1")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "program").write_bytes(b"\x7fELF cut off")
    assert not stack_binaries.works(part, tmp_path / "kept")
    stack_binaries.make(part, tmp_path, tmp_path / "kept")
    assert stack_binaries.works(part, tmp_path / "kept")


def test_without_go_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"neither go nor a docker engine.*1\.26 or newer"):
        stack_binaries.installed_go()


def test_a_go_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text('#!/bin/sh\necho \'{"GOVERSION": "go1.22.3"}\'\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"go1\.22\.3 is too old: go 1\.26"):
        stack_binaries.installed_go()


def test_the_error_of_a_failed_build_has_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    (tmp_path / "go.mod").write_text("module example.test/broken\n\ngo 1.26\n")
    with pytest.raises(BuildError, match="`go build` failed"):
        stack_binaries.go(tmp_path, "build", "./nowhere")
    assert "directory not found" in capsys.readouterr().out


def test_the_versions_are_in_the_manifests() -> None:
    folder = stack_binaries.MANIFESTS
    assert stack_binaries.find(r"^  version: (\S+)$", folder / "collector" / "builder.yaml")
    with pytest.raises(BuildError, match=r"go.mod has no line like"):
        stack_binaries.find(r"^nothing (\S+)$", folder / "jaeger" / "go.mod")


# Replaces docker on this machine, which has no engine: a container is a folder with a program at its entry point.
DOCKER = """#!/bin/sh
case "$1" in
  version) echo 28.0 ;;
  create) echo "container-of-$2" ;;
  inspect) echo /the/entry-point ;;
  cp) [ -z "$BROKEN" ] || { echo no such file >&2; exit 1; }
    printf '#!/bin/sh\\necho %s\\n' "$2" > "$3"; chmod +x "$3" ;;
  rm) echo "$2" >> "$REMOVED" ;;
esac
"""


def test_without_go_the_programs_are_taken_from_the_pinned_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    for tool in ("sh", "chmod"):
        (docker.parent / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(docker.parent))
    monkeypatch.setenv("NODESPAN_STACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REMOVED", str(tmp_path / "removed"))
    pins = stack_images.pins()

    found = stack_binaries.binaries()
    said = {name: stack_binaries.reported_version(path, "--version") for name, path in found.items()}
    assert said == {
        "otelcol": f"container-of-{pins['COLLECTOR_IMAGE']}:/the/entry-point",
        "jaeger": f"container-of-{pins['JAEGER_IMAGE']}:/the/entry-point",
        "prometheus": f"container-of-{pins['PROMETHEUS_IMAGE']}:/the/entry-point",
        "promtool": f"container-of-{pins['PROMETHEUS_IMAGE']}:/bin/promtool",
    }
    assert len((tmp_path / "removed").read_text().split()) == 4

    monkeypatch.setenv("BROKEN", "1")
    assert stack_binaries.binaries() == found  # from the cache: docker is not used again
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(BuildError, match=r"`docker cp .*` failed: no such file"):
        stack_binaries.binaries()


@pytest.fixture
def stack(tmp_path: Path) -> stack_local.LocalStack:
    programs = {name: tmp_path / name for part in PARTS for name in part.binaries}
    return stack_local.LocalStack(programs, tmp_path / "stack", stack_local.Ports.free(), interval="1s")


def test_prometheus_scrapes_the_addresses_of_the_local_stack(stack: stack_local.LocalStack) -> None:
    local = (stack.folder / "prometheus" / "prometheus.yml").read_text()
    assert f"127.0.0.1:{stack.ports.collector_metrics}" in local
    assert f"127.0.0.1:{stack.ports.jaeger_metrics}" in local
    assert "scrape_interval: 1s, evaluation_interval: 1s" in local
    assert not {"jaeger:8888", "otel-collector:8888"} & set(local.split('"'))
    with pytest.raises(RuntimeError, match="does not scrape jaeger:8888"):
        stack_programs.local_addresses(local, {"jaeger:8888": [1]}, "1s")


def test_ports_are_all_different() -> None:
    for ports in (stack_local.Ports(), stack_local.Ports.free()):
        numbers: list[Any] = [getattr(ports, name) for name in stack_local.Ports.__slots__]
        assert len(set(numbers)) == len(numbers)


def test_the_log_of_a_program_that_ends_at_once_is_printed(stack: stack_local.LocalStack, tmp_path: Path) -> None:
    (tmp_path / "jaeger").write_text("#!/bin/sh\necho cannot open the data base\nexit 3\n")
    (tmp_path / "jaeger").chmod(0o755)
    with pytest.raises(RuntimeError, match=r"(?s)jaeger is not ready.*cannot open the data base"):
        stack.start("jaeger")
    assert not stack.is_running("jaeger")


def test_the_error_for_an_unknown_overlay_lists_existing_ones() -> None:
    ran = subprocess.run(
        [sys.executable, str(stack_binaries.MANIFESTS / "stack_local.py"), "no-such"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "No overlay no-such. There are: drop-content, loki, tail-sampling." in ran.stderr
