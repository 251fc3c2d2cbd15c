"""TracedLock: what threading.Lock promises, and a record that is never wrong."""

import threading
import time

import pytest

from companion.processes.traced_lock import BOOK, DeadlockBroken, TracedLock


@pytest.fixture(autouse=True)
def _the_book_ends_as_it_began():
    yield
    assert (BOOK.holders, BOOK.waits) == ({}, {})


@pytest.fixture
def held():
    """A lock that another thread holds until told to let go."""
    lock, taken, let_go = TracedLock("held"), threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            let_go.wait()

    thread = threading.Thread(target=hold, name="holder")
    thread.start()
    taken.wait()
    lock.let_go = let_go.set
    yield lock
    let_go.set()
    thread.join()


def asking(lock: TracedLock, ends: list, **options) -> threading.Thread:
    """A thread that waits for the lock; its end is noted. Comes back when it waits."""

    def ask():
        try:
            took = lock.acquire(**options)
            ends.append(took)
            if took:
                lock.release()
        except DeadlockBroken as error:
            ends.append(str(error))

    thread = threading.Thread(target=ask, name="asker")
    with BOOK.changed:
        thread.start()
        assert BOOK.changed.wait_for(lambda: thread in BOOK.waits, 10)
    return thread


def test_one_at_a_time():
    lock, inside, most = TracedLock("once"), [], []

    def work():
        for _ in range(25):
            with lock:
                inside.append(1)
                time.sleep(0)  # here another thread would come in
                most.append(len(inside))
                inside.pop()

    crew = [threading.Thread(target=work) for _ in range(7)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert most == [1] * (25 * 7)


def test_the_holder_by_name(held):
    assert held.holder == "holder"
    lock = TracedLock("free")
    assert lock.holder is None
    with lock as same:
        assert same is lock
        assert lock.holder == "MainThread"
    assert lock.holder is None


def test_it_is_given_back_after_an_error():
    lock = TracedLock("error")
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert lock.holder is None


def test_a_waiting_thread_gets_it(held):
    ends = []
    thread = asking(held, ends)
    assert ends == []
    held.let_go()
    thread.join(100)
    assert ends == [True]


def test_several_waiting_threads_all_get_it(held):
    ends = []
    crew = [asking(held, ends) for _ in range(5)]
    held.let_go()
    for thread in crew:
        thread.join(100)
    assert ends == [True] * 5


def test_a_release_reaches_its_own_waiting_thread(held):
    """Threads that wait for another lock must not catch the signal in its place."""
    ends, mine = [], TracedLock("mine")
    with mine:
        thread = asking(mine, ends)
        others = [asking(held, []) for _ in range(2)]
    thread.join(100)
    done = list(ends)
    held.let_go()
    for other in [thread, *others]:
        other.join(100)
    assert done == [True]


@pytest.mark.parametrize("timeout_s", [0, 0.05])
def test_a_wait_may_be_limited(held, timeout_s):
    start = time.monotonic()
    assert held.acquire(timeout_s=timeout_s) is False
    assert timeout_s <= time.monotonic() - start < timeout_s + 60
    assert held.holder == "holder"


def test_a_limited_wait_survives_the_changes_of_others(held):
    """Each change of any lock wakes all who wait; the time runs on, and does not begin again."""
    ends, other, stop = [], TracedLock("other"), threading.Event()

    def change():
        while not stop.is_set():
            with other:
                pass

    noise = threading.Thread(target=change)
    noise.start()
    try:
        start = time.monotonic()
        asking(held, ends, timeout_s=0.2).join(100)
    finally:
        stop.set()
        noise.join()
    assert ends == [False]
    assert 0.2 <= time.monotonic() - start < 60


def test_a_limited_wait_that_is_granted(held):
    ends = []
    thread = asking(held, ends, timeout_s=30)
    held.let_go()
    thread.join(100)
    assert ends == [True]


def test_only_the_holder_may_release(held):
    with pytest.raises(RuntimeError, match="lock held is held by holder, not by MainThread"):
        held.release()
    assert held.holder == "holder"
    with pytest.raises(RuntimeError, match="lock free is held by nobody, not by MainThread"):
        TracedLock("free").release()


def test_a_broken_wait_does_not_take_the_lock(held):
    ends = []
    thread = asking(held, ends)
    assert BOOK.break_waits([BOOK.waits[thread]]) == 1
    thread.join(100)
    assert ends == ["asker gave up waiting for lock held"]
    assert held.holder == "holder"


def test_a_broken_wait_is_broken_even_if_the_lock_comes_free(held):
    ends = []
    thread = asking(held, ends)
    with BOOK.changed:  # nobody can look before both have happened
        BOOK.break_waits([BOOK.waits[thread]])
        del BOOK.holders[held]
        BOOK.changed.notify_all()
    thread.join(100)
    assert ends == ["asker gave up waiting for lock held"]
    with BOOK.changed:  # its holder releases it in the end, as always
        BOOK.holders[held] = next(t for t in threading.enumerate() if t.name == "holder")


def test_a_wait_that_is_over_cannot_be_broken(held):
    ends = []
    thread = asking(held, ends)
    wait = BOOK.waits[thread]
    held.let_go()
    thread.join(100)
    assert BOOK.break_waits([wait]) == 0
    assert held.acquire(timeout_s=0)
    held.release()


def test_bad_arguments():
    with pytest.raises(TypeError, match="name: expected a string, got 3"):
        TracedLock(3)
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"timeout_s must be a finite number in .*, got {bad}"):
            TracedLock("a").acquire(timeout_s=bad)
    assert repr(TracedLock("a")) == "TracedLock('a')"
