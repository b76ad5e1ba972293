"""Locks that are monitored: wrappers of all kinds of locks, which write records of them.

A lock is seen when it is wrapped: by the program itself (`monitor_lock`, `MonitoredLock`), or by `_patch`. A wrapper
keeps its lock alive, and nothing keeps the wrapper. This module knows nothing of what becomes of the records.
"""

import sys
import weakref

from itertools import repeat
from _operator import attrgetter, methodcaller
from _thread import LockType, RLock as RLockType, allocate_lock, get_ident
from time import monotonic

from ._code import outside, text
from ._records import current_task, is_locked, is_locked_again, is_locked_here, lose, record_of, records, ref_to

getframe, getrefcount = sys._getframe, sys.getrefcount
new = object.__new__

#: Seconds at most between two tries of a coroutine to take a lock of threads.
TRY = 0.05
#: What an `acquire` is called with that is not to wait, again and again.
NOT_WAITING = repeat(False)


def entering(record, take, is_mine=None):
    """What a `with` statement takes a lock by, and notes it; it looks for nothing, since all that it needs is here.

    What `Record.took` does stands here again, because each use of a lock would pay for the call.
    take: the lock's own `acquire`. is_mine: says whether this thread has it already.

    A signal whose handler raises must not come between the taking and the `with` block, or nobody would give the lock
    back. Python looks for signals after a call, and not after a step of an iteration: so the lock is taken by one,
    and what is to be called is called before.
    """
    tries = map(take, NOT_WAITING)

    def enter():
        if is_mine is not None and is_mine():
            for got in tries:
                return got
        ident = get_ident()
        now = monotonic()
        frame = getframe(1)
        for got in tries:
            if got:
                record.owner = ident
                record.since = now
                record.at_code = frame.f_code
                record.at_lasti = frame.f_lasti
                record.acquisitions += 1
                return True
            break
        return record.take(take, (), {}, frame)

    def enter_one_of_many():
        return record.take(take, (), {}, getframe(1))

    return enter if record.holders is None else enter_one_of_many


def giving(record, release, in_task):
    """What a lock is given back by that cannot say whether it is held, which is noted."""

    def give(*args):
        # Before it is free, or the next holder's note would be lost.
        record.gave(current_task() if in_task else None)
        return release(*args)

    return give


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
        frame = caller()
        if not args and not kwargs and self._try(False):
            self._record.took(frame)
            return True
        return self._record.take(self._try, args, kwargs, frame)

    def _enter_from(self, frame):
        return self._record.take(self._try, (), {}, frame)

    async def __aenter__(self):
        """In a coroutine it waits without blocking the loop, so it has to try again and again."""
        import asyncio

        frame = outside(getframe(1))
        # Not the wrapper, by which several tasks may wait.
        delay, at = 0.001, _At(frame.f_code, frame.f_lasti)
        del frame
        task = current_task()
        begun = monotonic()
        try:
            while not self._try(False):
                self._record.waiters[id(at)] = (get_ident(), task, begun, at.f_code, at.f_lasti)
                await asyncio.sleep(delay)
                delay = min(delay * 2, TRY)
        finally:
            if self._record.waiters.pop(id(at), None):
                self._record.contended += 1
        self._record.took(at, task)

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


def caller():
    """Who has called what asks; nobody where C code has, in a thread of its own."""
    try:
        return getframe(2)
    except ValueError:
        return _At(None, 0)


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
    # What a Condition does without it, but for whoever waits.
    _release_save = property(attrgetter("_lock.release"))

    def _acquire_restore(self, state):
        self._record.take(self._try, (), {}, outside(getframe(1)))

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

    _lock = property(attrgetter("_try.__self__"))
    release = property(attrgetter("_lock.release"))
    #: Takes it if it is free. An attribute, since that is no call either, as in `entering`.
    _is_taken = property(methodcaller("_try", False))

    def __enter__(self):
        record = self._record
        ident = get_ident()
        now = monotonic()
        frame = getframe(1)
        if self._is_taken:
            record.owner = ident
            record.since = now
            record.at_code = frame.f_code
            record.at_lasti = frame.f_lasti
            record.acquisitions += 1
            return True
        return record.take(self._try, (), {}, frame)


class WrappedRLock(_Whole):
    """Around a `threading.RLock`. What is noted is its first holder's."""

    __slots__ = ("_is_mine",)
    bare = RLockType
    __class__ = property(lambda self: type(self._lock))

    def acquire(self, *args, **kwargs):
        if self._is_mine():
            return self._try(*args, **kwargs)
        return self._record.take(self._try, args, kwargs, caller())

    def _enter_from(self, frame):
        return self._try() if self._is_mine() else self._record.take(self._try, (), {}, frame)

    async def __aenter__(self):
        if self._is_mine():
            # Of this thread, but maybe of another task, which gives it back while this one waits.
            while self._is_mine() and self._record.holder_task() not in (None, current_task()):
                import asyncio

                await asyncio.sleep(0.001)
            if self._is_mine():
                self._try()
                return
        await MonitoredLock.__aenter__(self)

    def _release_save(self):
        # Before it is free. This hold is over: who takes it next has not waited for it.
        self._record.owner, self._record.since = 0, 0.0
        return self._lock._release_save()

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


class _Waiting(_Other):
    """Around one that cannot be tried: whoever takes it is told as one who waits."""

    __slots__ = ()

    def acquire(self, *args, **kwargs):
        return self._record.ask(self._try, args, kwargs, outside(getframe(1)))

    def _enter_from(self, frame):
        return self._record.ask(getattr(self._lock, "__enter__", self._try), (), {}, frame)

    async def __aenter__(self):
        raise TypeError("it would block the loop: use `with`")


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

    async def __aexit__(self, kind, error, traceback):
        given = self.release()
        if hasattr(given, "__await__"):
            await given


async def take_async(record, lock, acquire, frame):
    at = _At(frame.f_code, frame.f_lasti)
    del frame
    task = current_task()
    says = says_at_once(lock)
    if says and not (lock.locked() or getattr(lock, "_waiters", None)):
        got = await acquire()
    else:
        key = id(at)
        try:
            record.waiters[key] = (get_ident(), task, monotonic(), at.f_code, at.f_lasti)
            got = await acquire()
        finally:
            record.waiters.pop(key, None)
            # It may have been free, where that cannot be known.
            record.contended += says
        if says and record.holders is None:
            record.was_held(record.since)
    if got or got is None:
        record.took(at, task)
    return got


def says_at_once(lock):
    """Can it be asked whether it is held?"""
    return hasattr(lock, "locked") and not is_coroutine(lock, "locked")


def is_coroutine(lock, name):
    flags = getattr(getattr(getattr(type(lock), name, None), "__code__", None), "co_flags", 0)
    return bool(flags & 0x180)  # CO_COROUTINE or CO_ITERABLE_COROUTINE


def can_try(lock):
    """Does its `acquire` not wait if it is told so first? Those of the library do not."""
    code = getattr(getattr(type(lock), "acquire", None), "__code__", None)
    if code is None:
        return (type(lock).__module__ or "").partition(".")[0] in ("threading", "multiprocessing")
    return code.co_varnames[1 : code.co_argcount][:1] in (("blocking",), ("block",))


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
    if not hasattr(lock, "acquire") or not hasattr(lock, "release"):
        raise TypeError("%r is no lock, which has `acquire` and `release`; a name goes with `name=`" % (lock,))
    if kind is LockType:
        cls, held, called = OwnLock if is_own else WrappedLock, is_locked, "threading.Lock"
    elif hasattr(lock, "_is_owned") and hasattr(lock, "_acquire_restore") and not hasattr(lock, "notify"):
        cls, held, called = WrappedRLock, is_locked_again, "threading.RLock"
    else:
        package = (kind.__module__ or "").partition(".")[0]
        called = "%s.%s" % (package, kind.__name__)
        cls, held = _Other if can_try(lock) else _Waiting, None
        if is_coroutine(lock, "acquire"):
            cls, held = _Async, is_locked if says_at_once(lock) else None
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
    if cls is _Waiting:
        enter = getattr(lock, "__enter__", lock.acquire)
        self.__enter__ = lambda: record.ask(enter, (), {}, outside(getframe(1)))
    elif cls is not _Async:
        self.__enter__ = entering(record, inner.acquire, is_mine)
    if record.is_held is None or cls is _Async:
        give = lock.release if record.is_held is not None else giving(record, lock.release, cls is _Async)
        self.release = give
        self.__exit__ = lambda kind, error, traceback: give() and None
        if cls is _Waiting and hasattr(lock, "__exit__"):
            self.__exit__ = giving(record, lock.__exit__, False)
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
        self._try = lock.acquire
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
