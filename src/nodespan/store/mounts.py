"""Detects network file systems, on which SQLite's locks and shared memory do not work between machines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/self/mounts")
_NETWORK: Final = re.compile(r"nfs\d?|cifs|smb\w*|afs|ceph|glusterfs|lustre|fuse\.(sshfs|glusterfs|s3fs|rclone)")


def network_file_system(path: Path, table: Path = _TABLE) -> str | None:
    """The kind of the path's file system if it is a network file system, else ``None``."""
    try:
        lines = table.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    place = path.resolve()
    mounted: dict[Path, str] = {}  # a later mount hides an earlier one at the same path
    for line in lines:
        _, where, kind, *_ = line.split(" ")
        mounted[Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), where))] = kind
    kind = next((mounted[parent] for parent in (place, *place.parents) if parent in mounted), "")
    return kind if _NETWORK.fullmatch(kind) else None
