"""What a fork finds, and what a forked child has: no open database, no lock of its parent's, and every lock free."""

from __future__ import annotations

import os
import time

from nodespan.delivery.sender_lock import SenderLock


def test_no_file_of_the_store_is_open_during_a_fork(run_python):
    """SQLite does not support a connection that a fork has copied. The first fork handler is called last."""
    done = run_python(
        """
        import os, warnings
        from pathlib import Path
        # From 3.12 on Python warns of a fork beside other threads.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        found = []
        def look():
            names = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
            found.append([name for name in names if Path(os.environ["NODESPAN_STORE"]).stem in name])
        os.register_at_fork(before=look)

        import nodespan
        from opentelemetry import trace
        from nodespan.store import SqliteStore, StoreReader, store_path
        telemetry = nodespan.configure()
        trace.get_tracer("x").start_span("work").end()
        telemetry.force_flush(5)
        reader = StoreReader(SqliteStore(store_path()))
        reader.find()
        look()
        for _ in range(2):
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
        print(len(found[0]) > 0, found[1:])
        """,
        NODESPAN_RUNNING_AFTER_MS="60000",
    )
    assert (done.stdout.strip(), done.stderr) == ("True [[], []]", "")


def test_a_child_can_send_once_its_parent_no_longer_does(tmp_path):
    lock = SenderLock(tmp_path / "s.db", "identity")
    assert lock.acquire()
    (from_child, to_parent), (from_parent, to_child) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        own = SenderLock(tmp_path / "s.db", "identity")
        os.write(to_parent, b"1" if own.acquire() else b"0")
        os.read(from_parent, 1)
        deadline = time.monotonic() + 10
        while not (is_held := own.acquire()) and time.monotonic() < deadline:
            time.sleep(0.01)
        os._exit(0 if is_held else 1)
    assert os.read(from_child, 1) == b"0"
    lock.release()
    os.write(to_child, b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for handle in (from_child, to_parent, from_parent, to_child):
        os.close(handle)
