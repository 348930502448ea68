"""Files that are broken, replaced, of another version, or in a place that cannot serve."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from nodespan.errors import StoreError, StoreForeignError
from nodespan.otlp import Encoded
from nodespan.spans.log import CODE_FIELD
from nodespan.store import SqliteStore, StoreReader, database, default_path
from nodespan.store.mounts import network_file_system

HERE = "http://here:4318"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spans.db"


def append(store: SqliteStore, spans: int = 1) -> int:
    return store.append(Encoded(b"x" * 3_000, spans), HERE, "me")


def damaged(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.iterdir() if re.fullmatch(r"\w+\.db\.damaged-\d+", file.name))


def codes_of(caplog) -> list[str]:
    return [getattr(record, CODE_FIELD) for record in caplog.records if record.name == "nodespan"]


def test_the_file_is_readable_only_by_its_owner(path):
    before = os.umask(0)
    try:
        store = SqliteStore(path.parent / "deep" / "down" / "spans.db")
        append(store)
        store.close()
    finally:
        os.umask(before)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", [b"this is no database, and never was one" * 100, b"SQLite format 3\x00" + b"\xff" * 5_000]
)
def test_a_file_without_a_valid_header_at_the_default_path_is_renamed(tmp_path, content, caplog, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = default_path()
    path.parent.mkdir()
    path.write_bytes(content)
    store = SqliteStore(path)
    append(store)
    assert store.stats().spans == 1
    (aside,) = damaged(path)
    assert aside.read_bytes() == content
    assert codes_of(caplog) == ["store.damaged"]
    store.close()


def fill(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    for _ in range(50):
        append(store)
    store.database.read(lambda connection: connection)
    store.close()  # moves the log into the file
    return store


def test_overwritten_pages_are_detected_while_the_store_is_open(path, caplog):
    store = fill(path)
    append(store)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(1, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xab" * 4096)
    other = SqliteStore(path)
    for _ in range(3):
        append(other)
    assert other.stats().spans == 3
    assert len(damaged(path)) == 1
    append(store)  # the object with the old file open switches to the new one
    assert other.stats().spans == 4
    assert len(damaged(path)) == 1
    assert len(codes_of(caplog)) == 1
    store.close()
    other.close()


def test_two_processes_that_detect_damage_at_once_replace_the_file_once(path):
    """Both detect the damaged file; the first renames it before the second does."""
    first, second = fill(path), SqliteStore(path)
    append(second)
    second.close()
    path.write_bytes(b"broken" * 10_000)
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    second.database._file = database.identity(path)
    append(first, spans=5)
    assert second.database._recovered_from(error)
    assert second.stats().spans == 5
    assert len(damaged(path)) == 1
    first.close()
    second.close()


@pytest.mark.parametrize("length", [0, 100, 4096, 20_000])
def test_of_a_truncated_file_only_the_missing_part_is_lost(path, length, caplog):
    fill(path)
    os.truncate(path, length)
    store = SqliteStore(path)
    for _ in range(3):
        append(store)
    found, _ = store.unsent(HERE)
    assert len(found) >= 3
    assert len(damaged(path)) <= 1
    assert len(codes_of(caplog)) == len(damaged(path))
    assert store.database.read(lambda connection: connection.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    store.close()


def test_a_file_removed_while_a_program_runs_is_created_again(path):
    store = SqliteStore(path)
    append(store)
    for file in path.parent.glob("spans.db*"):
        file.unlink()
    append(store, spans=7)
    assert store.stats().spans == 7
    reader = SqliteStore(path)
    assert reader.stats().spans == 7
    reader.close()
    store.close()


def test_a_store_of_another_version_is_not_modified(path):
    store = SqliteStore(path)
    append(store)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreForeignError, match="another version"):
        append(store)
    assert path.read_bytes() == before


MOUNTS = r"""sysfs /sys sysfs rw 0 0
/dev/vda / ext4 rw 0 0
server:/x /net nfs4 rw 0 0
tmpfs /net/local tmpfs rw 0 0
//nas/a\040b /media/a\040b cifs rw 0 0
me@host: /net/me/remote fuse.sshfs rw 0 0
overlay /srv nfs rw 0 0
overlay /srv overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/net/me/spans.db", "nfs4"),
        ("/net/local/spans.db", None),
        ("/media/a b/deep/spans.db", "cifs"),
        ("/net/me/remote/spans.db", "fuse.sshfs"),
        ("/srv/spans.db", None),
        ("/var/spans.db", None),
    ],
)
def test_a_network_file_system_is_detected_by_the_table_of_mounts(tmp_path, place, kind):
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert network_file_system(Path(place), table) == kind
    assert network_file_system(Path(place), tmp_path / "absent") is None


def test_a_store_on_a_network_file_system_is_refused_with_the_reason(path, tmp_path, monkeypatch):
    table = tmp_path / "mounts"
    table.write_text(f"server:/x {tmp_path.resolve()} nfs4 rw 0 0\n")
    monkeypatch.setattr(database, "network_file_system", lambda path: network_file_system(path, table))
    with pytest.raises(StoreError, match=r"network file system.*nfs4.*NODESPAN_STORE=memory"):
        append(SqliteStore(path))
    assert not path.exists()


def test_a_file_system_without_shared_memory_is_refused(path, monkeypatch):
    """As for SQLite, whose dotfile locking has no shared memory."""
    real = sqlite3.connect

    def connect(place, **options):
        joint = "&" if str(place).startswith("file:") else "?"
        place = str(place) if joint == "&" else f"file:{place}"
        return real(f"{place}{joint}vfs=unix-dotfile", **{**options, "uri": True})

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(StoreError, match="shared memory"):
        append(SqliteStore(path))


@pytest.mark.parametrize("place", ["/proc/nowhere/spans.db", "/dev/null/spans.db", "/"])
def test_the_error_for_an_unwritable_path_names_a_remedy(place):
    with pytest.raises(StoreError, match=r"NODESPAN_STORE=/path/to/nodespan\.db"):
        append(SqliteStore(Path(place)))


def test_a_read_only_directory_is_an_error():
    """Root can write everywhere, so the test runs as another user."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o555)
        me = os.geteuid()
        if me == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match="Permission denied"):
                append(SqliteStore(place / "spans.db"))
        finally:
            os.seteuid(me)
        assert list(place.iterdir()) == []


WITHOUT_POSIX_LOCKS = """
import sys
sys.modules["fcntl"] = None  # as on Windows
import nodespan
try:
    nodespan.configure()
except nodespan.errors.ConfigurationError as error:
    print(error)
"""


def test_a_platform_without_posix_locks_is_a_clear_error():
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX_LOCKS], check=True, capture_output=True, text=True)
    assert "Supported: Linux and macOS" in done.stdout


KILLED_IN_A_CHECKPOINT = """
import os, signal, sys
from contextlib import closing
from pathlib import Path
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
for _ in range(50):
    store.append(Encoded(b"x" * 3_000, 1), "here", "me")
pages = store.database.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
with open(sys.argv[1], "r+b") as file:  # the first page is copied from the log, the others are not yet
    file.seek(28)
    file.write(pages.to_bytes(4, "big"))
    file.flush()
    assert os.fstat(file.fileno()).st_size < pages * 4096
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("opens", [SqliteStore, lambda path: StoreReader(SqliteStore(path))])
def test_a_kill_during_a_checkpoint_does_not_damage_the_store(path, opens, caplog):
    subprocess.run([sys.executable, "-c", KILLED_IN_A_CHECKPOINT, str(path)], check=False)
    with closing(opens(path)) as store:
        assert len(store.unsent("here")[0] if isinstance(store, SqliteStore) else list(store.iter_batches())) == 50
    assert damaged(path) == []
    assert codes_of(caplog) == []
