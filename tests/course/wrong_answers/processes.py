"""Plausible wrong answers to `course/exercises/source/processes`: task -> {mistake: code}."""

import runpy
from pathlib import Path

BARRIER = runpy.run_path(str(Path(__file__).parent / "processes" / "barrier.py"))["BARRIER"]
WRONG = {
    "make_barrier": BARRIER,
    "run_schedule": {
        "one copy for all": """
def run_schedule(schedule, workers):
    counter, copy, steps = 0, 0, [0] * workers
    for worker in schedule:
        action = steps[worker] % 3
        if action == 0:
            copy = counter
        elif action == 1:
            copy += 1
        else:
            counter = copy
        steps[worker] += 1
    return counter
""",
        "nothing is ever lost": """
def run_schedule(schedule, workers):
    return sum(schedule.count(worker) // 3 for worker in range(workers))
""",
        "adds to the counter when it stores": """
def run_schedule(schedule, workers):
    counter, steps = 0, [0] * workers
    for worker in schedule:
        if steps[worker] % 3 == 2:
            counter += 1
        steps[worker] += 1
    return counter
""",
        "loads only once": """
def run_schedule(schedule, workers):
    counter, copies, steps = 0, [None] * workers, [0] * workers
    for worker in schedule:
        action = steps[worker] % 3
        if action == 0 and copies[worker] is None:
            copies[worker] = counter
        elif action == 1:
            copies[worker] += 1
        elif action == 2:
            counter = copies[worker]
        steps[worker] += 1
    return counter
""",
        "an increment that is not stored counts": """
def run_schedule(schedule, workers):
    counter, copies, steps = 0, [0] * workers, [0] * workers
    for worker in schedule:
        action = steps[worker] % 3
        if action == 0:
            copies[worker] = counter
        else:
            copies[worker] += action == 1
            counter = max(counter, copies[worker]) if action == 1 else copies[worker]
        steps[worker] += 1
    return counter
""",
    },
    "find_ring": {
        "everybody who waits": """
def find_ring(holds, waits):
    blocked = [thread for thread in sorted(waits) if waits[thread] in holds]
    return blocked if len(blocked) > 1 else []
""",
        "the tail belongs to it": """
def find_ring(holds, waits):
    for first in sorted(waits):
        path, thread = [], first
        while thread in waits and thread not in path:
            path.append(thread)
            thread = holds.get(waits[thread])
        if thread in path:
            return path
    return []
""",
        "rings of two only": """
def find_ring(holds, waits):
    for first in sorted(waits):
        other = holds.get(waits[first])
        if other in waits and holds.get(waits[other]) == first:
            return [first, other]
    return []
""",
        "nobody waits for himself": """
def find_ring(holds, waits):
    for first in sorted(waits):
        path, thread = [], first
        while thread in waits and thread not in path:
            path.append(thread)
            thread = holds.get(waits[thread])
        if thread == first and len(path) > 1:
            return path
    return []
""",
        "only from the first thread": """
def find_ring(holds, waits):
    if not waits:
        return []
    first = min(waits)
    path, thread = [], first
    while thread in waits and thread not in path:
        path.append(thread)
        thread = holds.get(waits[thread])
    return path if thread == first else []
""",
        "sorted instead of in order": """
def find_ring(holds, waits):
    for first in sorted(waits):
        path, thread = [], first
        while thread in waits and thread not in path:
            path.append(thread)
            thread = holds.get(waits[thread])
        if thread == first:
            return sorted(path)
    return []
""",
    },
    "transfer": {
        "first the giver's lock": """
def transfer(a, b, amount):
    if a is b:
        with a.lock:
            return a.balance >= amount
    with a.lock, b.lock:
        if a.balance < amount:
            return False
        b.balance += amount
        a.balance -= amount
        return True
""",
        "waits for itself": """
def transfer(a, b, amount):
    first, second = sorted((a, b), key=lambda account: account.number)
    with first.lock, second.lock:
        if a.balance < amount:
            return False
        b.balance += amount
        a.balance -= amount
        return True
""",
        "a lock stays taken when there is not enough": """
def transfer(a, b, amount):
    accounts = sorted({a, b}, key=lambda account: account.number)
    for account in accounts:
        account.lock.acquire()
    if a.balance < amount:
        return False
    if a is not b:
        b.balance += amount
        a.balance -= amount
    for account in accounts:
        account.lock.release()
    return True
""",
        "looks before it locks": """
def transfer(a, b, amount):
    if a.balance < amount:
        return False
    if a is b:
        return True
    first, second = sorted((a, b), key=lambda account: account.number)
    with first.lock, second.lock:
        b.balance += amount
        a.balance -= amount
        return True
""",
        "money is lost when the taker refuses": """
def transfer(a, b, amount):
    if a is b:
        with a.lock:
            return a.balance >= amount
    first, second = sorted((a, b), key=lambda account: account.number)
    with first.lock, second.lock:
        if a.balance < amount:
            return False
        a.balance -= amount
        b.balance += amount
        return True
""",
        "the last one cannot be moved": """
def transfer(a, b, amount):
    if a is b:
        with a.lock:
            return a.balance >= amount
    first, second = sorted((a, b), key=lambda account: account.number)
    with first.lock, second.lock:
        if a.balance <= amount:
            return False
        b.balance += amount
        a.balance -= amount
        return True
""",
    },
    "amdahl": {
        "efficiency for fraction": """
def amdahl(speedup, workers, target):
    fraction = speedup / workers
    if target <= 1:
        return fraction, 1
    left = 1 / target - (1 - fraction)
    return fraction, math.ceil(fraction / left) if left > 0 else None
""",
        "rounded down": """
def amdahl(speedup, workers, target):
    fraction = (1 - 1 / speedup) / (1 - Fraction(1, workers))
    if target <= 1:
        return fraction, 1
    left = 1 / target - (1 - fraction)
    return fraction, math.floor(fraction / left) if left > 0 else None
""",
        "the limit is reached": """
def amdahl(speedup, workers, target):
    fraction = (1 - 1 / speedup) / (1 - Fraction(1, workers))
    if target <= 1:
        return fraction, 1
    left = 1 / target - (1 - fraction)
    return fraction, math.ceil(fraction / left) if left > 0 else 10**9
""",
        "proportional": """
def amdahl(speedup, workers, target):
    fraction = (1 - 1 / speedup) / (1 - Fraction(1, workers))
    return fraction, math.ceil(workers * target / speedup)
""",
        "one more than needed": """
def amdahl(speedup, workers, target):
    fraction = (1 - 1 / speedup) / (1 - Fraction(1, workers))
    if target <= 1:
        return fraction, 1
    left = 1 / target - (1 - fraction)
    return fraction, math.floor(fraction / left) + 1 if left > 0 else None
""",
        "no case for a target of one": """
def amdahl(speedup, workers, target):
    fraction = (1 - 1 / speedup) / (1 - Fraction(1, workers))
    left = 1 / target - (1 - fraction)
    return fraction, math.ceil(fraction / left) if left > 0 else None
""",
    },
    "make_buffer": {
        "if instead of while": """
class Buffer:
    def __init__(self, size, condition):
        self.size, self.changed, self.items, self.closed = size, condition, [], False

    def put(self, item):
        with self.changed:
            if len(self.items) >= self.size and not self.closed:
                self.changed.wait()
            if self.closed:
                raise ValueError("closed")
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        with self.changed:
            if not self.items and not self.closed:
                self.changed.wait()
            item = self.items.pop(0) if self.items else None
            self.changed.notify_all()
            return item

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def make_buffer(size, condition):
    buffer = Buffer(size, condition)
    return buffer.put, buffer.get, buffer.close
""",
        "get does not notify": """
class Buffer:
    def __init__(self, size, condition):
        self.size, self.changed, self.items, self.closed = size, condition, [], False

    def put(self, item):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.items) < self.size)
            if self.closed:
                raise ValueError("closed")
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.items)
            return self.items.pop(0) if self.items else None

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def make_buffer(size, condition):
    buffer = Buffer(size, condition)
    return buffer.put, buffer.get, buffer.close
""",
        "close wakes up one": """
class Buffer:
    def __init__(self, size, condition):
        self.size, self.changed, self.items, self.closed = size, condition, [], False

    def put(self, item):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.items) < self.size)
            if self.closed:
                raise ValueError("closed")
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.items)
            if not self.items:
                return None
            item = self.items.pop(0)
            self.changed.notify_all()
            return item

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify()


def make_buffer(size, condition):
    buffer = Buffer(size, condition)
    return buffer.put, buffer.get, buffer.close
""",
        "last in, first out": """
class Buffer:
    def __init__(self, size, condition):
        self.size, self.changed, self.items, self.closed = size, condition, [], False

    def put(self, item):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.items) < self.size)
            if self.closed:
                raise ValueError("closed")
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.items)
            item = self.items.pop() if self.items else None
            self.changed.notify_all()
            return item

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def make_buffer(size, condition):
    buffer = Buffer(size, condition)
    return buffer.put, buffer.get, buffer.close
""",
        "closed means empty": """
class Buffer:
    def __init__(self, size, condition):
        self.size, self.changed, self.items, self.closed = size, condition, [], False

    def put(self, item):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.items) < self.size)
            if self.closed:
                raise ValueError("closed")
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.items)
            item = None if self.closed else self.items.pop(0)
            self.changed.notify_all()
            return item

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def make_buffer(size, condition):
    buffer = Buffer(size, condition)
    return buffer.put, buffer.get, buffer.close
""",
        "a closed buffer takes more": """
class Buffer:
    def __init__(self, size, condition):
        self.size, self.changed, self.items, self.closed = size, condition, [], False

    def put(self, item):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.items) < self.size)
            self.items.append(item)
            self.changed.notify_all()

    def get(self):
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.items)
            item = self.items.pop(0) if self.items else None
            self.changed.notify_all()
            return item

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def make_buffer(size, condition):
    buffer = Buffer(size, condition)
    return buffer.put, buffer.get, buffer.close
""",
    },
    "proportional_sizes": {
        "resident instead of proportional": """
def proportional_sizes(processes, pages, writes):
    return [float(pages)] * processes
""",
        "always divided by all": """
def proportional_sizes(processes, pages, writes):
    copied = set(writes)
    return [
        float(sum(1 if (p, page) in copied else 1 / processes for page in range(pages)))
        for p in range(processes)
    ]
""",
        "every write copies again": """
def proportional_sizes(processes, pages, writes):
    sizes = [0.0] * processes
    for page in range(pages):
        writers = [p for p, where in writes if where == page]
        sharers = [p for p in range(processes) if p not in writers]
        for p in sharers:
            sizes[p] += 1 / len(sharers)
        for p in writers:
            sizes[p] += 1
    return sizes
""",
        "a writer keeps its part of the original": """
def proportional_sizes(processes, pages, writes):
    sizes = [pages / processes] * processes
    for process, page in set(writes):
        sizes[process] += 1
    return sizes
""",
        "whoever writes copies for all": """
def proportional_sizes(processes, pages, writes):
    written = {page for _, page in writes}
    return [len(written) + (pages - len(written)) / processes] * processes
""",
    },
    "first_failure": {
        "the earliest report": """
def first_failure(reports):
    failed = [(time_s, rank) for rank, time_s, code, _ in reports if code != 0]
    return min(failed)[1] if failed else None
""",
        "no last words, no cause": """
def first_failure(reports):
    failed = [r for r in reports if r[2] not in (0, -15)]
    causes = [r for r in failed if r[3] and not r[3].startswith("PeerLost")] or failed
    return min((r[1], r[0]) for r in causes)[1] if causes else None
""",
        "killed is killed": """
def first_failure(reports):
    failed = [r for r in reports if r[2] > 0]
    causes = [r for r in failed if not r[3].startswith("PeerLost")] or failed
    return min((r[1], r[0]) for r in causes)[1] if causes else None
""",
        "the launcher's own signal": """
def first_failure(reports):
    failed = [r for r in reports if r[2] != 0]
    causes = [r for r in failed if not r[3].startswith("PeerLost")] or failed
    return min((r[1], r[0]) for r in causes)[1] if causes else None
""",
        "the smallest number": """
def first_failure(reports):
    failed = [r for r in reports if r[2] not in (0, -15)]
    causes = [r for r in failed if not r[3].startswith("PeerLost")] or failed
    return min(r[0] for r in causes) if causes else None
""",
        "a consequence is never a cause": """
def first_failure(reports):
    failed = [r for r in reports if r[2] not in (0, -15)]
    causes = [r for r in failed if not r[3].startswith("PeerLost")]
    return min((r[1], r[0]) for r in causes)[1] if causes else None
""",
        "lost anywhere in the line": """
def first_failure(reports):
    failed = [r for r in reports if r[2] not in (0, -15)]
    causes = [r for r in failed if "PeerLost" not in r[3]] or failed
    return min((r[1], r[0]) for r in causes)[1] if causes else None
""",
    },
}
