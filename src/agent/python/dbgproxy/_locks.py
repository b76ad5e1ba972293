"""What is noted of the program's locks: records of them, the wrappers that write these, and how they are told.

A lock is seen when it is wrapped: by the program itself (`monitor_lock`, `MonitoredLock`), or by `_patch`. What is noted
when a lock is taken costs the program time, so it is little: who, when, and where, as code and an offset. Giving it
back costs nothing: whether a lock is held, it knows itself. Who has to wait is noted only where a first try without
waiting has failed.

Nothing here keeps a lock or a frame of the program alive: references are weak. This module knows nothing of event
loops, and not when somebody looks at what it has noted.
"""

import itertools
import os
import sys
import weakref

from _operator import attrgetter
from _thread import LockType, RLock as RLockType, allocate_lock, get_ident
from time import monotonic

getframe, getrefcount = sys._getframe, sys.getrefcount
new = object.__new__
ref_to = weakref.ref

#: Locks that are monitored at a time; what is made beyond them is an ordinary lock, and counted.
LOCKS = 10_000
#: Holders and waiters of each lock that are told.
ACTORS = 50
#: Holders of a semaphore that are remembered.
HOLDERS = 1000
#: Locks that nobody can give back any more, because they are gone; the oldest are forgotten.
LOST = 50
#: Seconds at most between two tries of a coroutine to take a lock of threads.
TRY = 0.05
#: Characters of a name or message.
TEXT = 200

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


# ---- code, and where it is ---------------------------------------------------------------------------------------

_HERE = os.path.dirname(__file__) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = tuple(_LIBRARY + name for name in ("site-packages", "dist-packages"))
_DEBUGGER = os.sep + "debugpy" + os.sep


def is_library(code):
    """Is it of the standard library, or of the debugger, and not of the program?"""
    file = code.co_filename
    if file.startswith(_LIBRARY):
        return not file.startswith(_PACKAGES) or is_debugger(code)
    return file.startswith(("<frozen ", _HERE)) or is_debugger(code)


def is_debugger(code):
    return _DEBUGGER in code.co_filename


def is_library_file(file):
    return file.startswith(("<frozen ", _HERE)) or file.startswith(_LIBRARY) and not file.startswith(_PACKAGES)


def is_agent(code):
    """Is it the agent's?"""
    return code.co_filename.startswith(_HERE)


def creator(frame, *files):
    """Who makes a lock, the calls within these files left out; None if that is not the program."""
    while frame is not None and frame.f_code.co_filename in files:
        frame = frame.f_back
    return None if frame is None or is_library(frame.f_code) else frame


def line_of(code, lasti):
    found = code.co_firstlineno
    if hasattr(code, "co_lines"):
        for start, end, line in code.co_lines():
            if start <= lasti < end:
                return line or found
        return found
    line, offset, table = found, 0, code.co_lnotab
    for step, lines in zip(table[::2], table[1::2]):
        offset += step
        if offset > lasti:
            break
        line += lines - 256 if lines >= 128 else lines
    return line


def file_of(code):
    file = code.co_filename
    return file if file.startswith("<") else os.path.abspath(file)


def place(code, lasti):
    return None if code is None else [file_of(code), line_of(code, lasti)]


def text(value, limit=TEXT):
    if not isinstance(value, str):
        return ""
    if not value.isascii():
        value = str.encode(value, "utf-8", "replace").decode("utf-8", "replace")
    return value if len(value) <= limit else value[: limit - 1] + "\u2026"


def attempt(function, *args):
    try:
        return function(*args)
    except Exception:
        return None


# ---- what is noted of a lock -------------------------------------------------------------------------------------


class Record:
    """What is noted of one lock. The lock is not kept alive by it, and it is gone when the lock is."""

    __slots__ = (
        "id", "name", "kind", "code", "lasti", "ref", "shared", "again", "is_held", "owner", "task", "since",
        "at_code", "at_lasti", "acquisitions", "contended", "timeouts", "longest", "waiters", "holders", "seen",
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
        #: The task that holds it, as a weak reference, where tasks take it.
        self.task = None
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
            self.task = task
            self.since = monotonic()
            self.at_code = frame.f_code
            self.at_lasti = frame.f_lasti
        elif len(self.holders) < HOLDERS:
            self.holders[next(numbers)] = (get_ident(), task, monotonic(), frame.f_code, frame.f_lasti)
        self.acquisitions += 1

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
        ident = get_ident()
        try:
            self.waiters[ident] = (ident, None, monotonic(), frame.f_code, frame.f_lasti)
            got = acquire(*args, **kwargs)
        finally:
            self.waiters.pop(ident, None)
        self.contended += 1
        if got:
            # Until now, or nearly: what is noted is still the former hold.
            if self.holders is None:
                self.was_held(self.since)
            self.took(frame)
        elif is_timed:
            self.timeouts += 1
        return got

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


# ---- wrappers ----------------------------------------------------------------------------------------------------


def entering(record, take, is_mine=None):
    """What a `with` statement takes a lock by, and notes it; it looks for nothing, since all that it needs is here.

    What `Record.took` does stands here again, because each use of a lock would pay for the call.
    take: the lock's own `acquire`. is_mine: says whether this thread has it already.
    """

    def enter():
        if is_mine is not None and is_mine():
            return take()
        if take(False):
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return record.take(take, (), {}, getframe(1))

    def enter_one_of_many():
        return record.take(take, (), {}, getframe(1))

    return enter if record.holders is None else enter_one_of_many


class Kind(type):
    """The wrappers' class, for those who ask it.

    A program may ask of any lock whether it is one of those that `threading.Lock()` makes, which are wrappers now. And
    it may call the methods of a lock's class, as `ExitStack` does, which are each lock's own.
    """

    def __instancecheck__(cls, instance):
        return type.__instancecheck__(cls, instance) or isinstance(instance, cls.bare)

    __enter__ = property(lambda cls: _enter)
    __exit__ = property(lambda cls: _exit)
    release = property(lambda cls: lambda self, *args: self.release(*args))


def _enter(self):
    return self._enter_from(outside(getframe(1)))


def _exit(self, *error):
    return self.__exit__(*error)


class MonitoredLock(metaclass=Kind):
    """A lock that the monitor sees, to be used in the place of the one that it wraps."""

    __slots__ = ("_lock", "_record", "_try", "__enter__", "__exit__", "release", "__weakref__")
    bare = ()

    def __new__(cls, lock=None, name=None):
        return wrap(lock, name, getframe(1))

    def __repr__(self):
        return "<monitored %s %r: %r>" % (self._record.kind, self._record.name, self._lock)

    def __reduce__(self):
        if issubclass(type(self), (WrappedLock, WrappedRLock)) and not hasattr(self._lock, "_semlock"):
            return self._lock.__reduce_ex__(2)  # It says that it cannot be copied.
        return MonitoredLock, (self._lock, self._record.name)

    def acquire(self, *args, **kwargs):
        if not args and not kwargs and self._try(False):
            self._record.took(getframe(1))
            return True
        return self._record.take(self._try, args, kwargs, getframe(1))

    def _enter_from(self, frame):
        return self._record.take(self._try, (), {}, frame)

    async def __aenter__(self):
        """In a coroutine it waits without blocking the loop, so it has to try again and again."""
        import asyncio

        delay, ident, frame = 0.001, id(self), outside(getframe(1))
        code, lasti = frame.f_code, frame.f_lasti
        task = current_task()
        begun = monotonic()
        try:
            while not self._try(False):
                self._record.waiters[ident] = (get_ident(), task, begun, code, lasti)
                await asyncio.sleep(delay)
                delay = min(delay * 2, TRY)
        finally:
            if self._record.waiters.pop(ident, None):
                self._record.contended += 1
        self._record.took(_At(code, lasti), task)

    async def __aexit__(self, kind, error, traceback):
        self.__exit__(kind, error, traceback)


class _Whole(MonitoredLock):
    """Around a lock that may have more to it than the monitor knows."""

    __slots__ = ()

    def __getattr__(self, name):
        if name in MonitoredLock.__slots__ or name == "_is_mine":
            raise AttributeError(name)  # It is half made.
        return getattr(self._lock, name)


class _At:
    """Where somebody was, for `took`."""

    __slots__ = ("f_code", "f_lasti")

    def __init__(self, code, lasti):
        self.f_code, self.f_lasti = code, lasti


class WrappedLock(MonitoredLock):
    """Around a `threading.Lock`."""

    __slots__ = ()
    bare = LockType
    #: For `isinstance` it is what it wraps.
    __class__ = property(lambda self: type(self._lock))

    locked = locked_lock = property(attrgetter("_lock.locked"))
    # A Condition would find it out by trying to take it.
    _is_owned = locked
    acquire_lock = property(attrgetter("acquire"))
    release_lock = property(attrgetter("release"))

    def _at_fork_reinit(self):
        self._lock._at_fork_reinit()
        self._record.reset()


class OwnLock(WrappedLock):
    """Around a lock that nobody else has."""

    __slots__ = ()

    def __del__(self):
        try:
            # A `with` statement may still have what it gives the lock back with.
            if self._lock.locked() and uses(self) == uses(dress(OwnLock, allocate_lock(), self._record)):
                lose(self._record)
        except Exception:
            pass


class NamedLock(WrappedLock):
    """The same as `WrappedLock`, for one use: it takes less to make one, and more to use it."""

    __slots__ = ()

    _try = property(attrgetter("_lock.acquire"))
    release = property(attrgetter("_lock.release"))

    def __enter__(self):
        lock = self._lock
        if lock.acquire(False):
            record = self._record
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return self._record.take(lock.acquire, (), {}, getframe(1))


class WrappedRLock(_Whole):
    """Around a `threading.RLock`. What is noted is its first holder's."""

    __slots__ = ("_is_mine",)
    bare = RLockType
    __class__ = property(lambda self: type(self._lock))

    def acquire(self, *args, **kwargs):
        if self._is_mine():
            return self._try(*args, **kwargs)
        return self._record.take(self._try, args, kwargs, getframe(1))

    def _enter_from(self, frame):
        return self._try() if self._is_mine() else self._record.take(self._try, (), {}, frame)

    async def __aenter__(self):
        if self._is_mine():
            # Of this thread, but maybe of another task, which gives it back while this one waits.
            while self._is_mine() and self._record.task != current_task():
                import asyncio

                await asyncio.sleep(0.001)
            if self._is_mine():
                self._try()
                return
        await MonitoredLock.__aenter__(self)

    def _acquire_restore(self, state):
        restore = self._lock._acquire_restore
        self._record.wait(lambda: restore(state) is None, (), {}, outside(getframe(1)), False)
        # A Condition's `wait` does not say whether it had to.
        self._record.contended -= 1

    def _at_fork_reinit(self):
        self._lock._at_fork_reinit()
        self._record.reset()


class _Other(_Whole):
    """Around whatever else has `acquire` and `release`. Nobody can ask it whether it is held: that is noted."""

    __slots__ = ()


class _Async(_Whole):
    """Around an `asyncio` lock, or what is like it."""

    __slots__ = ()

    def _enter_from(self, frame):
        raise TypeError("it is a lock for coroutines: use `async with`")

    def __enter__(self):
        self._enter_from(None)

    async def acquire(self):
        return await take_async(self._record, self._lock, self._try, outside(getframe(1)))

    async def __aenter__(self):
        await take_async(self._record, self._lock, self._try, outside(getframe(1)))


def outside(frame):
    """The nearest caller that is not one of the library's, if there is one."""
    found = frame
    while found is not None and is_library(found.f_code):
        found = found.f_back
    return found or frame


async def take_async(record, lock, acquire, frame):
    at = _At(frame.f_code, frame.f_lasti)
    del frame
    task = current_task()
    if not (lock.locked() or getattr(lock, "_waiters", None)):
        got = await acquire()
    else:
        key = id(at)
        try:
            record.waiters[key] = (get_ident(), task, monotonic(), at.f_code, at.f_lasti)
            got = await acquire()
        finally:
            record.waiters.pop(key, None)
        record.contended += 1
        if record.holders is None:
            record.was_held(record.since)
    record.took(at, task)
    return got


def wrap(lock, name=None, frame=None):
    """A wrapper for a lock of any kind, or for a new one."""
    is_own = lock is None
    if is_own:
        lock = allocate_lock()
    elif issubclass(type(lock), MonitoredLock) or "_dbgproxy" in fields(lock):
        # It is monitored already, and has got a name now.
        if name is not None:
            (lock._record if issubclass(type(lock), MonitoredLock) else lock._dbgproxy).name = text(str(name))
        return lock
    name = None if name is None else text(str(name))
    kind = type(lock)
    if kind is LockType:
        cls, held, called = OwnLock if is_own else WrappedLock, is_locked, "threading.Lock"
    elif hasattr(lock, "_is_owned") and hasattr(lock, "_acquire_restore") and not hasattr(lock, "notify"):
        cls, held, called = WrappedRLock, is_locked_again, "threading.RLock"
    else:
        package = (kind.__module__ or "").partition(".")[0]
        called = "%s.%s" % (package, kind.__name__)
        cls, held = _Other, None
        flags = getattr(getattr(getattr(kind, "acquire", None), "__code__", None), "co_flags", 0)
        if flags & 0x180 and hasattr(lock, "locked"):  # CO_COROUTINE or CO_ITERABLE_COROUTINE
            cls, held = _Async, is_locked
        elif hasattr(lock, "_semlock") and "Semaphore" not in kind.__name__ and not hasattr(lock, "notify"):
            cls, held = (WrappedRLock if kind.__name__ == "RLock" else _Whole), is_locked_here
    counts = "Semaphore" in called
    record = record_of(lock, called, name, frame, None if counts else held, counts)
    return dress(cls, lock, record)


def fields(lock):
    return getattr(lock, "__dict__", None) or ()


def dress(cls, lock, record):
    self = new(cls)
    self._lock = lock
    self._record = record
    inner = getattr(lock, "_semlock", lock) if cls in (_Whole, WrappedRLock) else lock
    if inner is not lock:
        record.shared = inner.name
    self._try = inner.acquire
    is_mine = None
    if cls is WrappedRLock:
        is_mine = self._is_mine = inner._is_owned if inner is lock else inner._is_mine
    if cls is not _Async:
        self.__enter__ = entering(record, inner.acquire, is_mine)
    if record.is_held is None or cls is _Async:
        give = lock.release
        if record.is_held is None:

            def give(*args, release=lock.release):
                # Before it is free, or the next holder's note would be lost.
                record.gave(current_task() if cls is _Async else None)
                return release(*args)

        self.release = give
        self.__exit__ = lambda kind, error, traceback: give() and None
    else:
        self.release = inner.release
        self.__exit__ = inner.__exit__
    return self


#: The locks that `monitor_lock` has made, and the wrappers that they had last, as weak references: a `with` statement
#: keeps the lock, and not the wrapper.
_by_name = {}


def monitor_lock(name, lock=None):
    """See `dbgproxy.monitor_lock`."""
    if lock is None:
        return named(text(str(name)), getframe(1))
    if type(lock) is LockType:
        try:
            # It is this one's: that of a lock that was here before went with it.
            record = records[id(lock)]
        except KeyError:
            return wrap(lock, name, getframe(1))
        if record.name is not name:
            record.name = text(str(name))
        self = new(NamedLock)
        self._lock = lock
        self._record = record
        self.__exit__ = lock.__exit__
        return self
    return wrap(lock, name, getframe(1))


def named(name, frame):
    """The one lock of that name, which is there as long as somebody has it."""
    entry = _by_name.get(name)
    lock = entry and entry[0]()
    if lock is None:
        if entry is not None:
            forget(name, entry[0])  # It is gone in this moment.
        made = wrap(None, name, frame)
        ref = weakref.ref(made._lock, lambda ref: forget(name, ref))
        # Whoever comes first has made it.
        entry = _by_name.setdefault(name, (ref, ref_to(made)))
        lock = entry[0]() or made._lock
    found = entry[1]()
    if found is None:
        found = dress(OwnLock, lock, record_of(lock, "threading.Lock", name, frame, is_locked))
        _by_name[name] = entry[0], ref_to(found)
    return found


def forget(name, ref):
    if _by_name.get(name, (None,))[0] is ref:
        _by_name.pop(name, None)


def uses(lock):
    """How often a wrapper's lock, and each of the methods by which it can be given back, are referred to."""
    each = lock._lock, lock._try, lock.__exit__, lock.release
    return list(map(getrefcount, each))


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
        holders = [(record.owner, record.task, record.since, record.at_code, record.at_lasti)]
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
    return row


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
    if record.seen is None or record.seen[0] != record.acquisitions:
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
        kept = record.owner, record.task, record.since, record.at_code, record.at_lasti
        record.reset()
        if record.shared is None:
            if record.holders is not None:
                record.holders.update(holders)
            elif kept[0] == ident:
                record.owner, record.task, record.since, record.at_code, record.at_lasti = kept


os.register_at_fork(after_in_child=lambda: attempt(_after_fork_in_child))
