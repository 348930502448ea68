"""The kept wheel of llama-cpp-python is used only where it fits, and never needed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "llama_cpp.py"))


def test_the_key_depends_on_version_processor_and_compiler_flags(tool: dict[str, Any]) -> None:
    key = tool["cache_key"]
    same = key("1.0", {"CMAKE_ARGS": "-DX=1"}, "cpu")
    others = [
        key("1.1", {"CMAKE_ARGS": "-DX=1"}, "cpu"),
        key("1.0", {"CMAKE_ARGS": "-DX=2"}, "cpu"),
        key("1.0", {"CMAKE_ARGS": "-DX=1", "CC": "clang"}, "cpu"),
        key("1.0", {"CMAKE_ARGS": "-DX=1"}, "another cpu"),
    ]
    assert key("1.0", {"CMAKE_ARGS": "-DX=1", "HOME": "elsewhere"}, "cpu") == same
    assert len({same, *others}) == 5


def test_on_a_processor_with_amx_the_default_build_excludes_it(tool: dict[str, Any]) -> None:
    build_environment = tool["build_environment"]
    has_amx = "flags\t: avx512f amx_tile amx_int8"
    assert "-DGGML_NATIVE=OFF" in build_environment({}, has_amx)["CMAKE_ARGS"]
    assert build_environment({"CMAKE_ARGS": "-DX=1"}, has_amx) == {"CMAKE_ARGS": "-DX=1"}
    assert build_environment({}, "flags\t: avx2") == {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}


def test_the_processor_is_detected_equally_each_time(tool: dict[str, Any]) -> None:
    assert tool["processor"]() == tool["processor"]() != ""


def test_the_cache_can_be_moved(tool: dict[str, Any], tmp_path: Path) -> None:
    where = tool["cache_directory"]
    assert where({"NODESPAN_WHEELS": str(tmp_path)}) == tmp_path
    assert where({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "nodespan" / "wheels"
    assert where({}) == Path.home() / ".cache" / "nodespan" / "wheels"


def test_an_absent_or_damaged_wheel_is_not_used(tool: dict[str, Any], tmp_path: Path) -> None:
    assert not tool["install_from_cache"](tmp_path / "absent")
    (tmp_path / "llama_cpp_python-0-py3-none-any.whl").write_bytes(b"PK\x03\x04 cut off")
    assert not tool["install_from_cache"](tmp_path)


def test_a_wheel_is_stored_atomically_and_replaces_an_older_one(tool: dict[str, Any], tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"new")
    kept = tmp_path / "cache" / "a.whl"
    kept.parent.mkdir()
    kept.write_bytes(b"old")
    tool["keep"](wheel, kept.parent)
    assert {path.name: path.read_bytes() for path in kept.parent.iterdir()} == {"a.whl": b"new"}


def test_a_cache_that_cannot_be_written_is_not_an_error(
    tool: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"new")
    tool["keep"](wheel, wheel / "below a file")
    assert "not kept" in capsys.readouterr().out


def test_the_version_is_the_pinned_one(tool: dict[str, Any]) -> None:
    assert tool["pinned_version"]("a==1\nllama-cpp-python==0.3.36\n") == "0.3.36"
    with pytest.raises(SystemExit, match="make constraints"):
        tool["pinned_version"]("a==1\n")
