"""The lock that a forked child goes on using."""

from __future__ import annotations

import os
import threading

from nodespan.spans.fork_lock import ForkLock


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_another_thread(lock):
    """Holds the lock until the returned event is set."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    return thread, release


def is_free(lock):
    found = []

    def look():
        with lock:
            found.append(True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(0.3)
    return bool(found)


def test_in_a_child_a_lock_of_another_thread_is_free():
    lock = ForkLock()
    thread, release = in_another_thread(lock)
    if not (child := os.fork()):
        os._exit(0 if is_free(lock) else 1)
    assert code_of(child) == 0
    assert not is_free(lock)
    release.set()
    thread.join()
    assert is_free(lock)


def test_in_a_child_of_the_holding_thread_the_lock_is_held():
    lock = ForkLock()
    with lock:
        if not (child := os.fork()):
            found = is_free(lock)
            os._exit(1 if found else 0)
        assert code_of(child) == 0


def test_the_lock_is_reentrant():
    lock = ForkLock()
    with lock, lock:
        assert not is_free(lock)
    assert is_free(lock)
