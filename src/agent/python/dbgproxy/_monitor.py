"""What the agent sees of a process's locks, event loops and tasks, and tells the daemon in samples.

Locks are seen when they are wrapped: by the program itself (`monitor_lock`, `MonitoredLock`), or by `patch`, which is
what `DBGPROXY_MONITOR=locks` asks for. What is noted when a lock is taken costs the program time, so it is little: who,
when, and where, as code and an offset. Giving it back costs nothing: whether a lock is held, it knows itself. Who has
to wait is noted only where a first try without waiting has failed.

Loops and tasks are looked at by the agent's own thread, with nothing patched, and with no more than a hundredth of a
core: a look that was expensive makes the next one later. `tasks+` stamps tasks where they are made, too.

Nothing here keeps a lock, a task or a frame of the program alive: references are weak, and what a look has gathered is
dropped at its end. This module knows nothing of the connection to the daemon.
"""

import itertools
import os
import sys
import time
import weakref

from _operator import attrgetter
from _thread import LockType, RLock as RLockType, allocate_lock, get_ident
from time import monotonic

getframe = sys._getframe
ref_to = weakref.ref

#: Locks that are monitored at a time; what is made beyond them is an ordinary lock, and counted.
LOCKS = 10_000
#: Of a sample: locks, tasks, holders and waiters of each lock, calls of a chain or stack, and exceptions.
ROWS, ACTORS, CHAIN, EXCEPTIONS = 200, 50, 20, 20
#: Holders of a semaphore that are remembered.
HOLDERS = 1000
#: Locks that nobody can give back any more, because they are gone; the oldest are forgotten.
LOST = 50
#: Loops that are watched, threads that are searched for them, and calls of each that are searched.
LOOPS, THREADS, DEPTH = 20, 200, 200
#: Seconds between looks at what a loop does, and from which on a callback blocks it.
LOOK, BLOCKED = 0.05, 0.1
#: Seconds at least between two samples, also if a blocked loop is to be told of at once.
AT_LEAST = 0.25
#: The part of a core that all this may take.
SHARE = 0.01
#: Characters of a name or message.
TEXT = 200

_numbers = itertools.count(1)
#: By the ids of the locks that live; and those of locks that cannot be asked whether they live.
_records = {}
_wrapped = weakref.WeakSet()
#: Locks that were not monitored because there were too many.
_left_out = 0
#: What was told last of locks that were collected while they were held.
_lost = []
#: Whether locks of the program have ever been monitored.
is_used = False
#: What `patch` has been asked for.
_patched = set()


# ---- code, and where it is ---------------------------------------------------------------------------------------

_HERE = os.path.dirname(__file__) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = tuple(_LIBRARY + name for name in ("site-packages", "dist-packages"))
_DEBUGGER = os.sep + "debugpy" + os.sep


def is_library(code):
    """Is it of the standard library, or of the debugger, and not of the program?"""
    file = code.co_filename
    if file.startswith(_LIBRARY):
        return not file.startswith(_PACKAGES) or _DEBUGGER in file
    return file.startswith(("<frozen ", _HERE)) or _DEBUGGER in file


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
        self.id = next(_numbers)
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
            self.ref = weakref.ref(lock, lambda ref, pop=_records.pop: pop(key, None))
        except TypeError:
            self.ref = nothing  # It has no weak references, so its wrapper has this record to itself.
            self.is_held = None
            _wrapped.add(self)
        else:
            if len(_records) < LOCKS:
                _records[key] = self

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
            self.holders[next(_numbers)] = (get_ident(), task, monotonic(), frame.f_code, frame.f_lasti)
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
    global _current
    try:
        if _current is None:
            _current = way_to_current(sys.modules["asyncio.tasks"], sys.modules["asyncio.events"])
        return ref_to(_current())
    except Exception:
        return None


def way_to_current(tasks, events):
    if sys.version_info >= (3, 12):
        return tasks.current_task
    # What asyncio does there, in fewer calls.
    return lambda get=tasks._current_tasks.get, loop=events._get_running_loop: get(loop())


_current = None


def record_of(lock, kind, name, frame, is_held, counts=False):
    """The record of a lock, a new one if there is none."""
    record = _records.get(id(lock))
    if record is not None and record.ref() is lock:
        if name is not None:
            record.name = name
        return record
    has_room()
    if name is None:
        name = title(frame, kind)
    return Record(lock, kind, name, frame, is_held, {} if counts else None)


def title(frame, kind):
    """Locks that have no name are called by where they are made."""
    if frame is None:
        return kind
    return "%s:%d" % (os.path.basename(frame.f_code.co_filename), frame.f_lineno)


def has_room():
    global _left_out
    if len(_records) < LOCKS:
        return True
    _left_out += 1
    return False


# ---- wrappers ----------------------------------------------------------------------------------------------------


class _Direct(property):
    """A method that is the wrapped lock's own: for a `with` statement it takes no call of a Python function."""

    def __call__(self, wrapper, *args):
        return self.__get__(wrapper)(*args)


class _Kind(type):
    """A program may ask of any lock whether it is one of those that `threading.Lock()` makes, which are wrappers now."""

    def __instancecheck__(cls, instance):
        return type.__instancecheck__(cls, instance) or isinstance(instance, cls.bare)


class MonitoredLock(metaclass=_Kind):
    """A lock that the monitor sees, to be used in the place of the one that it wraps."""

    __slots__ = ("_lock", "_try", "_record", "_exit", "release", "__weakref__")
    bare = ()

    def __new__(cls, lock=None, name=None):
        return wrap(lock, name, getframe(1))

    def __getattr__(self, name):
        if name in MonitoredLock.__slots__:
            raise AttributeError(name)  # It is half made.
        return getattr(self._lock, name)

    def __repr__(self):
        return "<monitored %s %r: %r>" % (self._record.kind, self._record.name, self._lock)

    def __reduce__(self):
        if issubclass(type(self), (_Lock, _RLock)) and not hasattr(self._lock, "_semlock"):
            return self._lock.__reduce_ex__(2)  # It says that it cannot be copied.
        return MonitoredLock, (self._lock, self._record.name)

    def __enter__(self):
        if self._try(False):
            record = self._record
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return self._record.wait(self._try, (), {}, getframe(1), False)

    __exit__ = _Direct(attrgetter("_exit"))

    def acquire(self, *args, **kwargs):
        if args or kwargs:
            return self._record.take(self._try, args, kwargs, getframe(1))
        if self._try(False):
            record = self._record
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return self._record.wait(self._try, (), {}, getframe(1), False)

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
                delay = min(delay * 2, LOOK)
        finally:
            if self._record.waiters.pop(ident, None):
                self._record.contended += 1
        self._record.took(_At(code, lasti), task)

    async def __aexit__(self, kind, error, traceback):
        self._exit(kind, error, traceback)


class _At:
    """Where somebody was, for `took`."""

    __slots__ = ("f_code", "f_lasti")

    def __init__(self, code, lasti):
        self.f_code, self.f_lasti = code, lasti


class _Lock(MonitoredLock):
    """Around a `threading.Lock`."""

    __slots__ = ()
    bare = LockType
    #: For `isinstance` it is what it wraps.
    __class__ = property(lambda self: type(self._lock))

    def locked(self):
        return self._lock.locked()

    def _is_owned(self):
        # A Condition would find it out by trying to take it.
        return self._lock.locked()

    def _at_fork_reinit(self):
        self._lock._at_fork_reinit()
        self._record.reset()


class _OwnLock(_Lock):
    """Around a lock that nobody else has."""

    __slots__ = ()

    def __del__(self):
        try:
            if self._lock.locked():
                lose(self._record)
        except Exception:
            pass


class _Named(_Lock):
    """The same as `_Lock`, for one use: it takes less to make one, and more to use it."""

    __slots__ = ()

    _try = property(attrgetter("_lock.acquire"))
    _exit = property(attrgetter("_lock.__exit__"))
    release = property(attrgetter("_lock.release"))
    __exit__ = _Direct(attrgetter("_lock.__exit__"))

    def __enter__(self):
        if self._lock.acquire(False):
            record = self._record
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return self._record.wait(self._lock.acquire, (), {}, getframe(1), False)


class _RLock(MonitoredLock):
    """Around a `threading.RLock`. What is noted is its first holder's."""

    __slots__ = ("_is_mine",)
    bare = RLockType
    __class__ = property(lambda self: type(self._lock))

    def __enter__(self):
        if self._is_mine():
            return self._try()
        if self._try(False):
            record = self._record
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return self._record.wait(self._try, (), {}, getframe(1), False)

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


class _Other(MonitoredLock):
    """Around whatever else has `acquire` and `release`. Nobody can ask it whether it is held: that is noted."""

    __slots__ = ()

    def __enter__(self):
        return self._record.take(self._try, (), {}, getframe(1))

    def acquire(self, *args, **kwargs):
        return self._record.take(self._try, args, kwargs, getframe(1))


class _Async(MonitoredLock):
    """Around an `asyncio` lock, or what is like it."""

    __slots__ = ()

    def __enter__(self):
        raise TypeError("it is a lock for coroutines: use `async with`")

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
    elif issubclass(type(lock), MonitoredLock) or "_dbgproxy" in _fields(lock):
        # It is monitored already, and has got a name now.
        if name is not None:
            (lock._record if issubclass(type(lock), MonitoredLock) else lock._dbgproxy).name = text(str(name))
        return lock
    name = None if name is None else text(str(name))
    kind = type(lock)
    if kind is LockType:
        cls, held, called = _OwnLock if is_own else _Lock, is_locked, "threading.Lock"
    elif hasattr(lock, "_is_owned") and hasattr(lock, "_acquire_restore") and not hasattr(lock, "notify"):
        cls, held, called = _RLock, is_locked_again, "threading.RLock"
    else:
        package = (kind.__module__ or "").partition(".")[0]
        called = "%s.%s" % (package, kind.__name__)
        cls, held = _Other, None
        flags = getattr(getattr(getattr(kind, "acquire", None), "__code__", None), "co_flags", 0)
        if flags & 0x180 and hasattr(lock, "locked"):  # CO_COROUTINE or CO_ITERABLE_COROUTINE
            cls, held = _Async, is_locked
        elif hasattr(lock, "_semlock") and "Semaphore" not in kind.__name__ and not hasattr(lock, "notify"):
            cls, held = (_RLock if kind.__name__ == "RLock" else MonitoredLock), is_locked_here
    counts = "Semaphore" in called
    record = record_of(lock, called, name, frame, None if counts else held, counts)
    return dress(cls, lock, record)


def _fields(lock):
    return getattr(lock, "__dict__", None) or ()


def dress(cls, lock, record):
    self = object.__new__(cls)
    self._lock = lock
    self._record = record
    inner = getattr(lock, "_semlock", lock) if cls in (MonitoredLock, _RLock) else lock
    self._try = inner.acquire
    if cls is _RLock:
        self._is_mine = inner._is_owned if inner is lock else inner._is_mine
    if inner is not lock:
        record.shared = inner.name
    if record.is_held is None or cls is _Async:
        give = lock.release
        if record.is_held is None:

            def give(*args, release=lock.release):
                # Before it is free, or the next holder's note would be lost.
                record.gave(current_task() if cls is _Async else None)
                return release(*args)

        self.release = give
        self._exit = lambda kind, error, traceback: give() and None
    else:
        self.release = inner.release
        self._exit = inner.__exit__
    return self


_shared_by_name = {}


def monitor_lock(name, lock=None):
    """See `dbgproxy.monitor_lock`."""
    if lock is None:
        # One lock for each name, as long as somebody has it.
        name = text(str(name))
        found = _shared_by_name.get(name)
        found = found and found()
        if found is None:
            made = wrap(None, name, getframe(1))
            ref = _shared_by_name.setdefault(name, weakref.ref(made, lambda ref: forget(name, ref)))
            found = ref() or made
        return found
    record = _records.get(id(lock))
    if record is not None and type(lock) is LockType and record.ref() is lock:
        if record.name is not name:
            record.name = text(str(name))
        self = object.__new__(_Named)
        self._lock = lock
        self._record = record
        return self
    return wrap(lock, name, getframe(1))


def forget(name, ref):
    if _shared_by_name.get(name) is ref:
        _shared_by_name.pop(name, None)


def lose(record):
    """It has been collected while it was held: nobody will ever give it back."""
    row = record_row(record, monotonic(), True, {}, None)
    row["leaked"] = True
    _lost.append(row)
    del _lost[:-LOST]


# ---- the locks of the program ------------------------------------------------------------------------------------
# `threading` is patched at once, since it is small. `asyncio` and `multiprocessing` are not loaded for this, and a
# look now and then would come too late for the locks of modules: so a finder waits for the program's own import of
# them, and takes itself away when it has seen all. Where something is a class in Python, its methods are replaced
# and the class stays what it is, for `isinstance`, for subclasses, and for pickles.


def patch(parts):
    """Monitors the locks that the program makes from now on, with `locks`, and stamps its tasks, with `tasks+`."""
    parts = set(parts) - _patched
    _patched.update(parts)
    finder = Finder()
    if "locks" in parts:
        import threading

        patch_threading(threading)
        finder.waiting["asyncio.locks"] = patch_asyncio
        finder.waiting["multiprocessing.synchronize"] = patch_multiprocessing
    if "tasks+" in parts:
        finder.waiting["asyncio.base_events"] = patch_tasks
    for name, function in list(finder.waiting.items()):
        module = sys.modules.get(name)
        if module is not None:
            del finder.waiting[name]
            attempt(function, module)
    if finder.waiting:
        sys.meta_path.insert(0, finder)


class Finder:
    """Waits for modules that are to be patched when they have been loaded."""

    def __init__(self):
        self.waiting = {}

    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting:
            return None
        function = self.waiting.pop(name)
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                attempt(self.extend, spec.loader, function)
                return spec
        return None

    @staticmethod
    def extend(loader, function):
        execute = loader.exec_module

        def exec_module(module):
            # The loader is the module's own: it is as it was for whoever looks at it later.
            attempt(delattr, loader, "exec_module")
            execute(module)
            attempt(function, module)

        loader.exec_module = exec_module


def like(original):
    """Lets a function look like the one that it replaces."""

    def make(function):
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__defaults__", "__kwdefaults__"):
            if not name.endswith("defaults__"):
                setattr(function, name, getattr(original, name, None))
        function.__wrapped__ = original
        return function

    return make


def patch_threading(threading):
    here = threading.__file__

    class Lock(metaclass=_Kind):
        __slots__ = ()
        bare = LockType
        __doc__ = LockType.__doc__

        def __new__(cls):
            frame = getframe(1)
            lock = allocate_lock()
            if is_library(frame.f_code) or not has_room():
                return lock
            record = Record(lock, "threading.Lock", title(frame, ""), frame, is_locked)
            return dress(_OwnLock, lock, record)

    Lock.__module__, Lock.__qualname__ = "threading", "Lock"
    bare = threading.RLock

    @like(bare)
    def RLock(*args, **kwargs):
        lock = bare(*args, **kwargs)
        frame = getframe(1)
        if is_library(frame.f_code) or not has_room():
            return lock
        record = Record(lock, "threading.RLock", title(frame, ""), frame, is_locked_again)
        return dress(_RLock, lock, record)

    condition = threading.Condition
    begin = condition.__init__

    @like(begin)
    def begin_condition(self, lock=None):
        if lock is None:
            frame = creator(getframe(1))
            if frame is not None and has_room():
                inner = bare()
                record = Record(inner, "threading.Condition", title(frame, ""), frame, is_locked_again)
                lock = dress(_RLock, inner, record)
        begin(self, lock)

    enter = condition.__enter__

    @like(enter)
    def enter_condition(self):
        lock = self._lock
        if type(lock) in (_OwnLock, _RLock, _Lock, _Named):
            return lock._enter_from(getframe(1))
        return lock.__enter__()

    condition.__init__, condition.__enter__ = begin_condition, enter_condition
    semaphore, bounded = threading.Semaphore, threading.BoundedSemaphore
    begin_any = semaphore.__init__

    @like(begin_any)
    def begin_semaphore(self, *args, **kwargs):
        begin_any(self, *args, **kwargs)
        frame = creator(getframe(1), here)
        if frame is not None and has_room():
            kind = "threading.%s" % (type(self).__name__,)
            self._dbgproxy = Record(self, kind, title(frame, ""), frame, None, {})

    acquire = semaphore.acquire

    @like(acquire)
    def acquire_semaphore(self, *args, **kwargs):
        record = getattr(self, "_dbgproxy", None)
        if record is None:
            return acquire(self, *args, **kwargs)
        return record.take(lambda *args, **kwargs: acquire(self, *args, **kwargs), args, kwargs, getframe(1))

    def patched_release(release):
        @like(release)
        def release_semaphore(self, *args, **kwargs):
            record = getattr(self, "_dbgproxy", None)
            if record is not None:
                for _ in range(min(args[0] if args else kwargs.get("n", 1), HOLDERS)):
                    record.gave()
            return release(self, *args, **kwargs)

        return release_semaphore

    semaphore.__init__ = begin_semaphore
    semaphore.acquire = semaphore.__enter__ = acquire_semaphore
    semaphore.release = patched_release(semaphore.release)
    bounded.release = patched_release(bounded.release)
    threading.Lock, threading.RLock = Lock, RLock


#: What the names of monitored semaphores end with: so a process that gets one knows it for a lock of the program's own.
SIGN = "-w"


def patch_multiprocessing(synchronize):
    semlock = synchronize.SemLock
    own = getframe().f_code.co_filename
    files = (synchronize.__file__, own, os.path.join(os.path.dirname(synchronize.__file__), "context.py"))
    values = os.path.join(os.path.dirname(synchronize.__file__), "sharedctypes.py")
    condition = synchronize.Condition.__init__.__code__
    #: What these make is their own.
    others = (synchronize.Event.__init__.__code__, synchronize.Barrier.__init__.__code__)
    make_name, make_methods = semlock._make_name, semlock._make_methods
    #: By thread, the name of the semaphore that it is making: one for forks alone does not keep its own.
    names = {}

    def who(self_frame):
        """Who makes the semaphore, and whether for a Condition; None if it is not the program, for a lock."""
        frame, of_condition = self_frame, False
        while frame is not None and frame.f_code.co_filename in files + (values,):
            if frame.f_code is condition:
                of_condition = True
            elif frame.f_code in others:
                return None, False
            frame = frame.f_back
        return (None if frame is None or is_library(frame.f_code) else frame), of_condition

    @staticmethod
    def name():
        made = make_name()
        maker = getframe(1)
        names.pop(get_ident(), None)
        frame, of_condition = who(maker)
        if frame is None or len(_records) >= LOCKS:
            return made
        if of_condition and maker.f_locals.get("kind") != synchronize.RECURSIVE_MUTEX:
            return made
        names[get_ident()] = made + SIGN
        return made + SIGN

    @like(make_methods)
    def methods(self):
        make_methods(self)
        inner = self._semlock
        shared = names.pop(get_ident(), None) or inner.name or ""
        if not shared.endswith(SIGN) or not has_room():
            return
        frame, of_condition = who(getframe(1))
        kind = "multiprocessing." + ("Condition" if of_condition else type(self).__name__)
        counts = isinstance(self, synchronize.Semaphore)
        title_ = title(frame, "%s %s" % (kind, shared.strip("/")))
        record = Record(self, kind, title_, frame, None if counts else is_locked_here, {} if counts else None)
        record.shared = shared
        record.again = again = inner.kind == synchronize.RECURSIVE_MUTEX
        self._dbgproxy = record

        def acquire(*args, **kwargs):
            if again and inner._is_mine():
                return inner.acquire(*args, **kwargs)
            return record.take(inner.acquire, args, kwargs, outside_of(getframe(1), files))

        self.acquire = acquire
        if counts:

            def release():
                record.gave()
                return inner.release()

            self.release = release

    within = (synchronize.Condition.__enter__.__code__,)

    @like(semlock.__enter__)
    def enter(self):
        inner = self._semlock
        try:
            record = self._dbgproxy
        except AttributeError:
            return inner.__enter__()
        if record.again and inner._is_mine():
            return inner.__enter__()
        if record.holders is None and inner.acquire(False):
            record.owner = get_ident()
            record.since = monotonic()
            frame = getframe(1)
            if frame.f_code in within:
                frame = frame.f_back
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return record.take(inner.acquire, (), {}, outside_of(getframe(1), files))

    @like(semlock.__exit__)
    def leave(self, *args):
        record = getattr(self, "_dbgproxy", None)
        if record is not None:
            record.gave()
        return self._semlock.__exit__(*args)

    semlock._make_name, semlock._make_methods = name, methods
    semlock.__enter__ = enter
    synchronize.Semaphore.__exit__ = leave


def outside_of(frame, files):
    while frame.f_code.co_filename in files and frame.f_back is not None:
        frame = frame.f_back
    return frame


def patch_asyncio(locks):
    here = (locks.__file__, getframe().f_code.co_filename)
    lock, semaphore = locks.Lock, locks.Semaphore
    condition = locks.Condition.__init__.__code__

    def patched(cls, counts):
        begin, acquire, release = cls.__init__, cls.acquire, cls.release

        @like(begin)
        def begin_lock(self, *args, **kwargs):
            begin(self, *args, **kwargs)
            maker = getframe(1)
            frame = creator(maker, *here)
            # One that has an `acquire` of its own, which may not come by here, is left alone.
            if frame is None or type(self).acquire is not take or not has_room():
                return
            kind = "Condition" if maker.f_code is condition else type(self).__name__
            self._dbgproxy = Record(
                self, "asyncio." + kind, title(frame, ""), frame, None if counts else is_locked, {} if counts else None
            )

        @like(acquire)
        async def take(self):
            record = getattr(self, "_dbgproxy", None)
            if record is None:
                return await acquire(self)
            frame = outside_of(getframe(1), here)
            if not counts and not self._locked and not self._waiters:
                # What `acquire` does first, on every Python.
                self._locked = True
                record.task = current_task()
                record.owner = get_ident()
                record.since = monotonic()
                record.at_code = frame.f_code
                record.at_lasti = frame.f_lasti
                record.acquisitions += 1
                return True
            return await take_async(record, self, lambda: acquire(self), frame)

        async def enter(self):
            record = getattr(self, "_dbgproxy", None)
            if record is None or counts or self._locked or self._waiters:
                await self.acquire()
                return
            self._locked = True
            frame = getframe(1)
            try:
                record.task = ref_to(_current())
            except Exception:
                record.task = current_task()
            record.owner = get_ident()
            record.since = monotonic()
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1

        cls.__init__, cls.acquire = begin_lock, take
        cls.__aenter__ = like(cls.__aenter__)(enter)
        if counts:

            @like(release)
            def release_semaphore(self):
                record = getattr(self, "_dbgproxy", None)
                if record is not None:
                    record.gave(current_task())
                release(self)

            cls.release = release_semaphore

    patched(lock, False)
    patched(semaphore, True)


def patch_tasks(base_events):
    """With `tasks+`: tasks know when and where they were made. Whatever factory a loop has is kept."""
    loop = base_events.BaseEventLoop
    if hasattr(loop.create_task, "__wrapped__"):
        return
    create = loop.create_task
    asyncio = os.path.dirname(base_events.__file__) + os.sep

    @like(create)
    def create_task(self, *args, **kwargs):
        task = create(self, *args, **kwargs)
        frame = getframe(1)
        while frame.f_code.co_filename.startswith(asyncio) and frame.f_back is not None:
            frame = frame.f_back
        try:
            task._dbgproxy = (monotonic(), frame.f_code, frame.f_lasti)
            stamped[0] += 1
        except AttributeError:
            pass  # A task of another make.
        return task

    loop.create_task = create_task


#: How many tasks were stamped.
stamped = [0]


# ---- samples -----------------------------------------------------------------------------------------------------


class Task:
    """What is remembered of a task: its number, since when it is known, and how it ended."""

    __slots__ = ("id", "since", "is_done")

    def __init__(self, now):
        self.id = "%d" % next(_numbers)
        self.since = now
        self.is_done = False


class Loop:
    """What is remembered of an event loop: the callback that it is at, and how long callbacks have blocked it."""

    __slots__ = (
        "ref", "thread", "handle", "since", "is_blocked", "stack", "task", "blocks", "longest", "last", "probe",
    )

    def __init__(self, loop, thread):
        self.ref = weakref.ref(loop)
        self.thread = thread
        self.handle = nothing
        self.since = 0.0
        self.is_blocked = False
        self.stack, self.task = [], None
        self.probe = None
        self.tell()

    def tell(self):
        """What has been is told."""
        self.blocks, self.longest, self.last = 0, 0.0, None

    def begins(self, handle, now):
        """It is at another callback, or at none."""
        if self.is_blocked:
            age = now - self.since
            self.longest = max(self.longest, age)
            self.last = {"age": age, "stack": self.stack, "task": self.task}
        self.is_blocked = False
        self.handle, self.since = handle, now


class Monitor:
    """Looks at the process now and then, and says what it has seen."""

    def __init__(self, parts, interval):
        self.parts, self.interval = parts, interval
        self.due = self.last = monotonic()
        #: Seconds of a core that the last look and the last sample took, and all since the last sample.
        self.look_cost = self.cost = self.spent = 0.0
        self.is_urgent = False
        self.has_told = False
        self.loops = {}
        #: By weak references, the oldest first.
        self.tasks = {}
        #: Tasks that have failed, and nobody has asked for their exception yet.
        self.suspects = []
        #: By task and lock of asyncio, where that is not monitored: since when the one is seen to wait for the other.
        self.waits = {}
        self.counts = {"created": 0, "completed": 0, "failed": 0, "cancelled": 0}

    def turn(self, send):
        """Does what is to be done now, and gives the seconds until there is something to do again."""
        begun, now = time.thread_time(), monotonic()
        if self.loops and "tasks" in self.parts:
            attempt(self.look, now)
            self.look_cost = time.thread_time() - begun
            self.spent += self.look_cost
        if now >= self.due or self.is_urgent and now >= self.last + max(AT_LEAST, self.cost / SHARE):
            self.is_urgent = False
            begun = time.thread_time()
            body = self.sample(now)
            if body is not None:
                # What a whole sample takes, with sending it, is known when it has been sent.
                body["cost"] = self.cost + self.spent
                send(body)
            self.cost = time.thread_time() - begun
            self.last = now
            self.due = now + max(self.interval, (self.cost + self.spent) / SHARE)
            self.spent = 0.0
        wait = self.due - monotonic()
        if self.loops:
            wait = min(wait, max(LOOK, self.look_cost / SHARE))
        return max(wait, 0.001)

    def sample(self, now):
        """What there is to be told; None if there is nothing, and that has been told already."""
        body = {"cost": 0.0, "monitors": sorted(part for part in ("locks", "tasks") if self.is_on(part))}
        tasks = None
        if "tasks" in self.parts and "asyncio.tasks" in sys.modules:
            tasks = attempt(self.sample_tasks, now)
        is_told = False
        if tasks is not None:
            body["loops"], body["tasks"], seen = tasks
            is_told = bool(body["loops"] or body["tasks"]["total"] or body["tasks"]["unretrieved"])
        else:
            seen = {}
        locks = attempt(self.sample_locks, now, seen)
        if locks is not None:
            body["locks"] = locks
            is_told = is_told or bool(locks["total"] or locks["locks"])
        was_told, self.has_told = self.has_told, is_told
        return body if is_told or was_told else None

    def is_on(self, part):
        return is_used if part == "locks" else part in self.parts

    # ---- locks ----------------------------------------------------------------------------------------------

    def sample_locks(self, now, seen):
        records = snapshot(_records.values) + snapshot(_wrapped.copy)
        alive = set(sys._current_frames())
        found = []
        for record in records:
            if record.acquisitions or record.waiters or record.owner:
                lock = record.ref()
                held = record.owner != 0 if record.is_held is None else lock is not None and record.is_held(lock)
                since = record.since if held and record.owner else now
                if record.holders:
                    since = min([holder[2] for holder in list(record.holders.values())] or [now])
                found.append((not record.waiters, since, -record.acquisitions, record.id, record, held))
                del lock
            else:
                found.append((True, now, 0, record.id, record, False))
        found.sort(key=lambda each: each[:4])
        rows = [record_row(each[4], now, each[5], alive, self) for each in found[:ROWS]]
        rows = list(seen.values())[:ROWS] + _lost[-LOST:] + rows
        total = len(records) + len(seen)
        return {"total": total, "dropped": _left_out + max(len(records) - ROWS, 0), "locks": rows[:ROWS]}

    def actor(self, ident, task):
        name = None
        threading = sys.modules.get("threading")
        thread = getattr(threading, "_active", {}).get(ident)
        if thread is not None:
            name = thread.name
        task_id = task_name = None
        found = task() if task is not None else None
        if found is not None:
            task_id, task_name = self.known(task).id, text(found.get_name())
        return {"thread": ident, "name": text(name or "thread"), "task": task_id, "taskName": task_name}

    def known(self, ref):
        """What is known of a task, by a weak reference to it."""
        found = self.tasks.get(ref)
        if found is None:
            found = self.tasks[ref] = Task(monotonic())
            self.counts["created"] += 1
        return found

    # ---- tasks ----------------------------------------------------------------------------------------------

    def sample_tasks(self, now):
        tasks = sys.modules["asyncio.tasks"]
        self.find_loops(tasks)
        refs = self.registered(tasks)
        # What is gone has ended, or was dropped; how, nobody can say any more.
        if len(self.tasks) > len(refs) or not refs.issuperset(self.tasks):
            for ref in set(self.tasks).difference(refs):
                if not self.tasks.pop(ref).is_done:
                    self.counts["completed"] += 1
        for ref in refs.difference(self.tasks):
            self.tasks[ref] = Task(now)
            self.counts["created"] += 1
        unretrieved = self.unretrieved()
        live = []
        for ref, known in self.tasks.items():
            if not known.is_done:
                task = ref()
                if task is None:
                    continue
                if task.done():
                    known.is_done = True
                    self.count(task, ref)
                else:
                    live.append(ref)
        task = None
        running = {ref: current for ref, current in self.currents(tasks)}
        rows, seen = [], {}
        waits, self.waits = self.waits, {}
        for ref in live[:ROWS]:
            row = attempt(self.row, ref, now, running, seen, waits)
            if row is not None:
                rows.append(row)
        counts = dict(self.counts)
        if "tasks+" in self.parts:
            counts["created"] = max(counts["created"], stamped[0])
        counts.update(total=len(live), dropped=len(live) - len(rows), unretrieved=unretrieved, tasks=rows)
        return self.loop_rows(now, len(live)), counts, seen

    def registered(self, tasks):
        """Weak references to all tasks. The sets are copied by C code, which nobody can get in between of."""
        found = set()
        for name in ("_all_tasks", "_scheduled_tasks"):
            known = getattr(tasks, name, None)
            data = getattr(known, "data", None)
            if isinstance(data, set):
                found |= data.copy()
        eager = getattr(tasks, "_eager_tasks", None)
        if isinstance(eager, set):
            found.update(map(weakref.ref, eager.copy()))
        if sys.version_info >= (3, 14):
            # There tasks are in lists that only asyncio knows.
            for loop in list(self.loops.values()):
                loop = loop.ref()
                if loop is not None:
                    found.update(map(weakref.ref, tasks.all_tasks(loop)))
        return found

    def count(self, task, ref):
        if task.cancelled():
            self.counts["cancelled"] += 1
        elif getattr(task, "_exception", None) is not None:
            self.counts["failed"] += 1
            if getattr(task, "_log_traceback", False) and len(self.suspects) < ROWS:
                self.suspects.append(ref)
        else:
            self.counts["completed"] += 1

    def unretrieved(self):
        """Exceptions that nobody has asked for since the sample before; each is told once."""
        found = []
        suspects, self.suspects = self.suspects, []
        for ref in suspects:
            task = ref()
            if task is not None and getattr(task, "_log_traceback", False) and len(found) < EXCEPTIONS:
                known = self.tasks.get(ref)
                row = attempt(exception_row, task._exception)
                if row is not None and known is not None:
                    row["task"] = known.id
                    found.append(row)
        return found

    def currents(self, tasks):
        for loop in list(self.loops.values()):
            found = loop.ref()
            if found is not None:
                current = attempt(tasks.current_task, found)
                if current is not None:
                    yield weakref.ref(current), True

    def row(self, ref, now, running, seen, waits):
        task = ref()
        if task is None:
            return None
        known = self.tasks[ref]
        stamp = getattr(task, "_dbgproxy", None)
        future = getattr(task, "_fut_waiter", None)
        chain, lock = chain_of(task.get_coro())
        if lock is not None and "_dbgproxy" not in _fields(lock):
            # No lock of a monitor's, but its waiters are known all the same.
            since = self.waits[known.id, id(lock)] = waits.get((known.id, id(lock)), now)
            self.note_wait(seen, lock, ref, now - since, chain)
        if ref in running:
            state = "running"
        else:
            state = "ready" if future is None else "waiting"
        awaited = awaited_task(future)
        coroutine = task.get_coro()
        return {
            "id": known.id, "name": text(task.get_name()),
            "coroutine": text(getattr(coroutine, "__qualname__", None) or type(coroutine).__name__),
            "state": state, "age": now - (known.since if stamp is None else stamp[0]), "stamped": stamp is not None,
            "site": None if stamp is None else place(stamp[1], stamp[2]),
            "awaits": None if awaited is None else self.known(weakref.ref(awaited)).id, "chain": chain,
        }

    def note_wait(self, seen, lock, ref, age, chain):
        kind = "asyncio." + type(lock).__name__
        row = seen.get(id(lock))
        if row is None:
            row = seen[id(lock)] = {
                "id": "a%x" % id(lock), "shared": None, "name": kind, "kind": kind, "site": None, "holders": [],
                "waiters": [], "waiterCount": 0, "acquisitions": 0, "contended": 0, "timeouts": 0, "longest": 0.0,
            }
        row["waiterCount"] += 1
        if len(row["waiters"]) < ACTORS:
            thread = next((loop.thread for loop in list(self.loops.values())), 0)
            site = next((call[1:] for call in reversed(chain) if not is_library_file(call[1])), chain[-1][1:])
            row["waiters"].append({"actor": self.actor(thread, ref), "site": site, "age": age})

    # ---- loops ----------------------------------------------------------------------------------------------

    def find_loops(self, tasks):
        events = sys.modules["asyncio.events"]
        run = getattr(getattr(sys.modules.get("asyncio.base_events"), "BaseEventLoop", None), "run_forever", None)
        code = getattr(run, "__code__", None)
        for key, loop in list(self.loops.items()):
            found = loop.ref()
            if found is None or not attempt(found.is_running):
                del self.loops[key]
        threads = {loop.thread for loop in self.loops.values()}
        frames = sys._current_frames()
        me = get_ident()
        for ident in list(frames)[:THREADS]:
            frame = frames.pop(ident)
            if ident in threads or ident == me:
                continue
            depth = 0
            while frame is not None and depth < DEPTH:
                if frame.f_code is code:
                    self.add_loop(frame.f_locals.get("self"), ident)
                    break
                frame = frame.f_back
                depth += 1
        del frames
        frame = None
        for ref in list(itertools.islice(self.tasks, ROWS)):
            task = ref()
            if task is not None:
                loop = attempt(task.get_loop)
                if loop is not None and id(loop) not in self.loops and attempt(loop.is_running):
                    self.add_loop(loop, getattr(loop, "_thread_id", None))

    def add_loop(self, loop, ident):
        if loop is not None and len(self.loops) < LOOPS:
            self.loops.setdefault(id(loop), Loop(loop, ident))

    def look(self, now):
        """Is a loop still at the callback that it was at?"""
        frames = sys._current_frames()
        handle_run = sys.modules["asyncio.events"].Handle._run.__code__
        for loop in list(self.loops.values()):
            if loop.thread is None or not hasattr(loop.ref(), "_run_once"):
                self.look_by_probe(loop, frames, now)
                continue
            frame = top = frames.get(loop.thread)
            depth, idle = 0, handle_run
            while frame is not None and depth < DEPTH and frame.f_code is not handle_run:
                if frame.f_code.co_name in ("_run_once", "_do_wait_suspend"):
                    # Between two callbacks, or stopped by the debugger.
                    frame = None
                    break
                frame = frame.f_back
                depth += 1
            handle = frame.f_locals.get("self") if frame is not None and frame.f_code is handle_run else None
            if handle is None:
                loop.begins(nothing, now)
            elif loop.handle() is not handle:
                loop.begins(weakref.ref(handle), now)
            elif now - loop.since >= BLOCKED:
                self.is_blocked(loop, top, frame)
            del frame, top, handle
        del frames

    def is_blocked(self, loop, top, until):
        if not loop.is_blocked:
            loop.is_blocked = self.is_urgent = True
            loop.blocks += 1
        loop.stack = stack_of(top, until)
        current = attempt(sys.modules["asyncio.tasks"].current_task, loop.ref())
        loop.task = None if current is None else self.known(weakref.ref(current)).id

    def look_by_probe(self, loop, frames, now):
        """A loop of another make is asked to run something."""
        found = loop.ref()
        if found is None:
            return
        probe = loop.probe
        if probe is not None and not probe.is_done:
            if now - probe.since >= BLOCKED and loop.thread is not None:
                loop.since = probe.since
                top = frames.get(loop.thread)
                suspended, frame, depth = False, top, 0
                while frame is not None and depth < DEPTH and not suspended:
                    suspended = frame.f_code.co_name == "_do_wait_suspend"
                    frame = frame.f_back
                    depth += 1
                if suspended:
                    probe.since = now
                else:
                    self.is_blocked(loop, top, None)
            return
        if probe is not None:
            loop.thread = probe.thread
        loop.begins(nothing, now)
        loop.probe = probe = Probe(now)
        attempt(found.call_soon_threadsafe, probe)

    def loop_rows(self, now, tasks):
        rows = []
        for loop in list(self.loops.values()):
            blocked = None
            longest = loop.longest
            if loop.is_blocked:
                blocked = {"age": now - loop.since, "stack": loop.stack, "task": loop.task}
                longest = max(longest, blocked["age"])
            found = loop.ref()
            own = tasks if len(self.loops) == 1 else self.of_loop(found)
            rows.append({
                "thread": self.actor(loop.thread, None), "blocked": blocked, "last_block": loop.last, "tasks": own,
                "longest_block": longest, "blocks": loop.blocks,
            })
            loop.tell()
        return rows

    def of_loop(self, loop):
        count = 0
        for ref, known in self.tasks.items():
            task = None if known.is_done else ref()
            count += task is not None and task.get_loop() is loop
        return count


class Probe:
    """Called by a loop when it has time."""

    __slots__ = ("since", "is_done", "thread", "__weakref__")

    def __init__(self, now):
        self.since, self.is_done, self.thread = now, False, None

    def __call__(self):
        self.thread = get_ident()
        self.is_done = True


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


def is_library_file(file):
    return file.startswith(("<frozen ", _HERE)) or file.startswith(_LIBRARY) and not file.startswith(_PACKAGES)


def stack_of(frame, until):
    """The calls that the program makes in there, the innermost first; all, if there are none of its own."""
    own, every = [], []
    depth = 0
    while frame is not None and frame is not until and depth < DEPTH and len(own) < CHAIN:
        code = frame.f_code
        call = [text(getattr(code, "co_qualname", code.co_name)), file_of(code), frame.f_lineno or 0]
        if not is_library(code):
            own.append(call)
        elif len(every) < CHAIN and not code.co_filename.startswith(_HERE):
            every.append(call)
        frame = frame.f_back
        depth += 1
    return own or every


def chain_of(coroutine):
    """Where a task waits, the outermost call first; and the lock of asyncio that it waits for, if it does."""
    chain, lock = [], None
    for _ in range(DEPTH):
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        frame = frame or getattr(coroutine, "ag_frame", None)
        if frame is not None:
            code = frame.f_code
            if not code.co_filename.startswith(_HERE) and len(chain) < CHAIN:
                name = text(getattr(coroutine, "__qualname__", code.co_name))
                chain.append([name, file_of(code), frame.f_lineno or code.co_firstlineno])
            locks = sys.modules.get("asyncio.locks")
            if code.co_name == "acquire" and code.co_filename == getattr(locks, "__file__", None):
                lock = frame.f_locals.get("self")
        following = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        coroutine = following or getattr(coroutine, "ag_await", None)
        if coroutine is None:
            break
    return chain, lock


def awaited_task(waits):
    """The task that something waits for, through `gather` too."""
    if hasattr(waits, "get_coro"):
        return waits
    for child in (getattr(waits, "_children", None) or ())[:ROWS]:
        if hasattr(child, "get_coro") and not child.done():
            return child
    return None


def exception_row(error):
    message = type(error).__name__
    # Its text is made by the program's own code, which has no place here, unless it is one already.
    if error.args and isinstance(error.args[0], (str, int, float)):
        message += ": %s" % (error.args[0],)
    site, traceback = None, error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if site is None or not is_library(code):
            site = [file_of(code), traceback.tb_lineno]
        traceback = traceback.tb_next
    return {"task": None, "message": text(message), "site": site}


# ---- forks -------------------------------------------------------------------------------------------------------


def _after_fork_in_child():
    """The child's one thread holds what it held; who else held or waited is in the parent. What is counted begins."""
    global _left_out
    ident = get_ident()
    _left_out = 0
    _lost.clear()
    stamped[0] = 0
    for record in list(_records.values()) + list(_wrapped):
        holders = {key: each for key, each in (record.holders or {}).items() if each[0] == ident}
        kept = record.owner, record.task, record.since, record.at_code, record.at_lasti
        record.reset()
        if record.shared is None:
            if record.holders is not None:
                record.holders.update(holders)
            elif kept[0] == ident:
                record.owner, record.task, record.since, record.at_code, record.at_lasti = kept


os.register_at_fork(after_in_child=lambda: attempt(_after_fork_in_child))
