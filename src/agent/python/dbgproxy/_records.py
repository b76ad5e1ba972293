"""What is noted of the program's locks, and how that is told.

What is noted when a lock is taken costs the program time, so it is little: who, when, and where, as code and an offset.
Giving it back costs nothing: whether a lock is held, it knows itself. Who has to wait is noted only where a first try
without waiting has failed.

Nothing here keeps a lock or a frame of the program alive: references are weak. This module knows nothing of event
loops, of how locks come to be noted, and of when somebody looks at it.
"""

import itertools
import os
import sys
import weakref

from _thread import get_ident
from time import monotonic

from ._code import place, text
from ._process import attempt

ref_to = weakref.ref

#: Locks that are monitored at a time; what is made beyond them is an ordinary lock, and counted.
LOCKS = 10_000
#: Holders and waiters of each lock that are told.
ACTORS = 50
#: Holders of a semaphore that are remembered.
HOLDERS = 1000
#: Locks that nobody can give back any more, because they are gone; the oldest are forgotten.
LOST = 50

numbers = itertools.count(1)
#: By the ids of the locks that live; and those of locks that cannot be asked whether they live.
records = {}
wrapped = weakref.WeakSet()
#: Locks that were not monitored because there were too many.
left_out = 0
#: What was told last of locks that were collected while they were held.
lost = []
#: Whether locks of the program have ever been monitored.
is_used = False


class Record:
    """What is noted of one lock. The lock is not kept alive by it, and it is gone when the lock is."""

    __slots__ = (
        "id", "name", "kind", "code", "lasti", "ref", "shared", "again", "is_held", "owner", "task", "task_at",
        "since", "at_code", "at_lasti", "acquisitions", "contended", "timeouts", "longest", "waiters", "holders", "seen",
        "__weakref__",
    )

    def __init__(self, lock, kind, name, frame, is_held, holders=None):
        global is_used
        is_used = True
        self.id = next(numbers)
        self.kind = kind
        self.code, self.lasti = (None, 0) if frame is None else (frame.f_code, frame.f_lasti)
        self.name = name
        #: May its holder take it once more?
        self.again = False
        #: Says of the lock whether somebody holds it; None if that is to be noted by `gave`.
        self.is_held = is_held
        self.shared = None
        self.holders = holders
        self.reset()
        # Only the tables keep a record, beside a wrapper that is in use.
        key = id(lock)
        try:
            self.ref = weakref.ref(lock, lambda ref, pop=records.pop: pop(key, None))
        except TypeError:
            self.ref = nothing  # It has no weak references, so its wrapper has this record to itself.
            self.is_held = None
            wrapped.add(self)
        else:
            if len(records) < LOCKS:
                records[key] = self

    def reset(self):
        self.owner = 0
        #: The task that took it last, as a weak reference, and at which acquisition.
        self.task, self.task_at = None, 0
        self.since = 0.0
        self.at_code, self.at_lasti = None, 0
        self.acquisitions = self.contended = self.timeouts = 0
        #: Of the holds that somebody had to wait for, or that a sample saw.
        self.longest = 0.0
        self.waiters = {}
        if self.holders is not None:
            self.holders = {}
        #: The holder's thread as it was when the hold was first seen: idents are used again.
        self.seen = None

    def took(self, frame, task=None):
        """Somebody has taken it."""
        if self.holders is None:
            self.owner = get_ident()
            self.task, self.task_at = task, self.acquisitions + 1
            self.since = monotonic()
            self.at_code = frame.f_code
            self.at_lasti = frame.f_lasti
        elif len(self.holders) < HOLDERS:
            self.holders[next(numbers)] = (get_ident(), task, monotonic(), frame.f_code, frame.f_lasti)
        self.acquisitions += 1

    def holder_task(self):
        """The task that holds it. A thread that takes it notes nothing of that; a lock of asyncio only tasks take."""
        return self.task if self.task_at == self.acquisitions or self.kind.startswith("asyncio.") else None

    def gave(self, task=None):
        """Somebody gives it back: the one who took it, where that is known."""
        if self.holders is None:
            self.owner = 0
            return
        ident = get_ident()
        for key, (owner, of, since, _, _) in list(self.holders.items()):
            if owner == ident and of == task and self.holders.pop(key, None):
                self.was_held(since)
                return
        for key in list(self.holders)[:1]:
            self.holders.pop(key, None)

    def was_held(self, since):
        held = monotonic() - since
        if since and held > self.longest:
            self.longest = held

    def wait(self, acquire, args, kwargs, frame, is_timed):
        """Waits for it, and says that it does."""
        got = self.acquired(acquire, args, kwargs, frame)
        self.contended += 1
        if got:
            # Until now, or nearly: what is noted is still the former hold.
            if self.holders is None:
                self.was_held(self.since)
            self.took(frame)
        elif is_timed:
            self.timeouts += 1
        return got

    def ask(self, acquire, args, kwargs, frame):
        """Takes it where nobody can say whether it will have to wait."""
        got = self.acquired(acquire, args, kwargs, frame)
        if got or got is None:
            self.took(frame)
        else:
            self.contended += 1
        return got

    def acquired(self, acquire, args, kwargs, frame):
        """What its `acquire` gives; meanwhile this thread is among the waiters."""
        ident = get_ident()
        try:
            self.waiters[ident] = (ident, None, monotonic(), frame.f_code, frame.f_lasti)
            return acquire(*args, **kwargs)
        finally:
            self.waiters.pop(ident, None)

    def take(self, acquire, args, kwargs, frame):
        """Takes it as the caller wants it, who may not want to wait, or not for ever."""
        blocking = args[0] if args else kwargs.get("blocking", kwargs.get("block", True))
        timeout = args[1] if len(args) > 1 else kwargs.get("timeout")
        try:
            may_wait = blocking and (timeout is None or timeout == -1 or 0 < timeout < 4e6)
        except TypeError:
            may_wait = False
        if may_wait:
            if acquire(False):
                self.took(frame)
                return True
            return self.wait(acquire, args, kwargs, frame, timeout not in (None, -1))
        # Without a wait, or something that the lock refuses.
        got = acquire(*args, **kwargs)
        if got:
            self.took(frame)
        else:
            self.contended += 1
        return got


def nothing():
    return None


def is_locked(lock):
    return lock.locked()


def is_locked_again(lock):
    # Before 3.14 only its text says so to other threads than its holder.
    return repr(lock).startswith("<locked")


def is_locked_here(lock):
    semaphore = lock._semlock
    # Another process may have given back what was taken here.
    return semaphore._count() > 0 and semaphore._is_zero()


def current_task():
    """The task that runs in this thread, as a weak reference."""
    global running
    try:
        if running is None:
            running = way_to_current(sys.modules["asyncio.tasks"], sys.modules["asyncio.events"])
        return ref_to(running())
    except Exception:
        return None


def way_to_current(tasks, events):
    if sys.version_info >= (3, 12):
        return tasks.current_task
    # What asyncio does there, in fewer calls.
    return lambda get=tasks._current_tasks.get, loop=events._get_running_loop: get(loop())


running = None


def record_of(lock, kind, name, frame, is_held, counts=False):
    """The record of a lock, a new one if there is none."""
    record = records.get(id(lock))
    if record is not None and record.ref() is lock:
        if name is not None:
            record.name = name
        return record
    has_room()
    if name is None:
        name = title(frame, kind)
    return Record(lock, kind, name, frame, is_held, {} if counts else None)


#: How many locks have been made at each place, of at most so many places as there are locks.
_made = {}


def title(frame, kind):
    """Locks that have no name are called by where they are made; from the second one there, with a number."""
    if frame is None:
        return kind
    made_at = "%s:%d" % (os.path.basename(frame.f_code.co_filename), frame.f_lineno)
    number = _made.get(made_at, 0) + 1
    if number > 1 or len(_made) < LOCKS:
        _made[made_at] = number
    return made_at if number == 1 else "%s #%d" % (made_at, number)


def has_room():
    global left_out
    if len(records) < LOCKS:
        return True
    left_out += 1
    return False


def lose(record):
    """It has been collected while it was held: nobody will ever give it back."""
    row = record_row(record, monotonic(), True, {}, None)
    row["leaked"] = True
    lost.append(row)
    del lost[:-LOST]


# ---- how they are told -------------------------------------------------------------------------------------------


def snapshot(what):
    """A list of what other threads may be changing."""
    for _ in range(10):
        try:
            return list(what())
        except RuntimeError:
            pass
    return []


def record_row(record, now, held, alive, monitor):
    """A lock, as it is told."""
    if record.holders is not None:
        holders = list(record.holders.values())
    elif held and record.owner:
        holders = [(record.owner, record.holder_task(), record.since, record.at_code, record.at_lasti)]
    else:
        holders = []
    leaked = False
    rows = []
    for holder in holders[:ACTORS]:
        ident, task, since, _, _ = holder
        if record.holders is None:
            record.was_held(since)
            leaked = ident not in alive or has_other(record, ident) or task is not None and is_over(task)
        elif "Bounded" in record.kind:
            leaked = leaked or ident not in alive
        row = actor_row(holder, now, monitor)
        if leaked and record.seen and record.seen[0] == record.acquisitions and record.seen[2]:
            row["actor"]["name"] = text(record.seen[2])
        rows.append(row)
    waiters = snapshot(record.waiters.values)
    row = {
        "id": "%d" % record.id, "shared": record.shared, "name": record.name, "kind": record.kind,
        "site": place(record.code, record.lasti), "holders": rows,
        "waiters": [actor_row(waiter, now, monitor) for waiter in waiters[:ACTORS] if is_waiting(waiter, alive)],
        "waiterCount": len(waiters), "acquisitions": record.acquisitions, "contended": record.contended,
        "timeouts": record.timeouts, "longest": record.longest,
    }
    if leaked and monitor is not None:
        row["leaked"] = True
    if record.shared is not None:
        row["locked"] = attempt(is_taken, record.ref())
    return row


def is_taken(lock):
    """Has any process taken a lock of multiprocessing?"""
    return lock._semlock._is_zero()


def actor_row(actor, now, monitor):
    ident, task, since, code, lasti = actor
    who = {"thread": ident, "name": "thread", "task": None, "taskName": None}
    if monitor is not None:
        who = monitor.actor(ident, task)
    return {"actor": who, "site": place(code, lasti), "age": max(now - since, 0.0)}


def is_waiting(waiter, alive):
    return waiter[0] in alive and (waiter[1] is None or not is_over(waiter[1]))


def is_over(task):
    found = task()
    return found is None or found.done()


def has_other(record, ident):
    """Has the thread's number gone to another thread since the hold was first seen?"""
    thread = getattr(sys.modules.get("threading"), "_active", {}).get(ident)
    ref = nothing if thread is None else weakref.ref(thread)
    # One that `threading` does not know yet is the same when it does.
    if record.seen is None or record.seen[0] != record.acquisitions or record.seen[1] is nothing:
        record.seen = (record.acquisitions, ref, getattr(thread, "name", None))
    return record.seen[1]() is not thread


# ---- forks -------------------------------------------------------------------------------------------------------


def _after_fork_in_child():
    """The child's one thread holds what it held; who else held or waited is in the parent. What is counted begins."""
    global left_out
    ident = get_ident()
    left_out = 0
    lost.clear()
    for record in list(records.values()) + list(wrapped):
        holders = {key: each for key, each in (record.holders or {}).items() if each[0] == ident}
        kept = record.owner, record.holder_task(), record.since, record.at_code, record.at_lasti
        record.reset()
        if record.shared is None:
            if record.holders is not None:
                record.holders.update(holders)
            elif kept[0] == ident:
                record.owner, record.task, record.since, record.at_code, record.at_lasti = kept


os.register_at_fork(after_in_child=lambda: attempt(_after_fork_in_child))
