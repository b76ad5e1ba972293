"""The locks and tasks that a program makes with the standard library, monitored as it makes them.

`DBGPROXY_MONITOR` asks for it: with `locks`, those of `threading`, `multiprocessing` and `asyncio` are wrapped or get a
record; with `tasks+`, tasks know when and where they were made. This module knows the library's classes, and nothing
of what becomes of what is noted.

`threading` is patched at once, since it is small. `asyncio` and `multiprocessing` are not loaded for this, and a
look now and then would come too late for the locks of modules: so a finder waits for the program's own import of
them, and takes itself away when it has seen all. Where something is a class in Python, its methods are replaced
and the class stays what it is, for `isinstance`, for subclasses, and for pickles.
"""

import os
import sys

from _operator import attrgetter
from _thread import LockType, allocate_lock, get_ident
from time import monotonic

from . import _records
from ._code import creator, is_library, outside
from ._locks import Kind, NamedLock, OwnLock, WrappedLock, WrappedRLock, dress, entering, getframe, take_async
from ._process import attempt
from ._records import (
    HOLDERS, LOCKS, Record, current_task, has_room, is_locked, is_locked_again, is_locked_here, records, ref_to, title,
)

#: What has been asked for.
_patched = set()
#: How many tasks were stamped.
stamped = [0]


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
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                attempt(self.extend, spec.loader, name)
                return spec
        return None

    def extend(self, loader, name):
        execute = loader.exec_module

        def exec_module(module):
            # The loader is the module's own: it is as it was for whoever looks at it later.
            attempt(delattr, loader, "exec_module")
            execute(module)
            # Not before: who only looks for the module does not load it.
            function = self.waiting.pop(name, None)
            if not self.waiting and self in sys.meta_path:
                sys.meta_path.remove(self)
            if function is not None:
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

    class Lock(metaclass=Kind):
        __slots__ = ()
        bare = LockType
        __doc__ = LockType.__doc__

        def __new__(cls):
            lock = allocate_lock()
            try:
                frame = getframe(1)
            except ValueError:
                return lock  # C code makes it in a thread of its own.
            if is_library(frame.f_code) or not has_room():
                return lock
            record = Record(lock, "threading.Lock", title(frame, ""), frame, is_locked)
            return dress(OwnLock, lock, record)

    Lock.__module__, Lock.__qualname__ = "threading", "Lock"
    bare = threading.RLock

    @like(bare)
    def RLock(*args, **kwargs):
        lock = bare(*args, **kwargs)
        frame = getframe(1)
        if is_library(frame.f_code) or not has_room():
            return lock
        record = Record(lock, "threading.RLock", title(frame, ""), frame, is_locked_again)
        return dress(WrappedRLock, lock, record)

    condition = threading.Condition
    begin = condition.__init__

    @like(begin)
    def begin_condition(self, lock=None):
        if lock is None:
            frame = creator(getframe(1))
            if frame is not None and has_room():
                inner = bare()
                record = Record(inner, "threading.Condition", title(frame, ""), frame, is_locked_again)
                lock = dress(WrappedRLock, inner, record)
        begin(self, lock)

    enter = condition.__enter__

    @like(enter)
    def enter_condition(self):
        lock = self._lock
        if type(lock) in (OwnLock, WrappedRLock, WrappedLock, NamedLock):
            return lock._enter_from(getframe(1))
        return lock.__enter__()

    condition.__init__, condition.__enter__ = begin_condition, enter_condition
    semaphore, bounded = threading.Semaphore, threading.BoundedSemaphore
    begin_any = semaphore.__init__

    @like(begin_any)
    def begin_semaphore(self, *args, **kwargs):
        begin_any(self, *args, **kwargs)
        frame = creator(getframe(1), here)
        # One that has an `acquire` or `release` of its own, which may not come by here, is left alone.
        kind = type(self)
        is_known = kind.acquire is acquire_semaphore and kind.release in (semaphore.release, bounded.release)
        if frame is not None and is_known and has_room():
            kind = "threading.%s" % (kind.__name__,)
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
    condition, waiting = synchronize.Condition.__init__.__code__, synchronize.Condition.wait.__code__
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
        if frame is None or len(records) >= LOCKS:
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
        is_mine = inner._is_mine if again else None

        def acquire(*args, **kwargs):
            if is_mine is not None and is_mine():
                return inner.acquire(*args, **kwargs)
            frame = getframe(1)
            if frame.f_code is waiting:
                frame = outside(frame)  # It has it again where the program waits.
            return record.take(inner.acquire, args, kwargs, frame)

        self.acquire = acquire
        self._dbgproxy_enter = entering(record, inner.acquire, is_mine)
        self._dbgproxy_exit = inner.__exit__
        if counts:

            def release():
                record.gave()
                return inner.release()

            self.release = release

    @like(synchronize.Semaphore.__exit__)
    def leave(self, *args):
        record = getattr(self, "_dbgproxy", None)
        if record is not None:
            record.gave()
        return self._semlock.__exit__(*args)

    enter = synchronize.Condition.__enter__

    @like(enter)
    def enter_condition(self):
        lock = self._lock
        if getattr(lock, "_dbgproxy", None) is None:
            return enter(self)
        return enter_from(lock, getframe(1))

    def enter_from(lock, frame):
        inner, record = lock._semlock, getattr(lock, "_dbgproxy", None)
        if record is None or record.again and inner._is_mine():
            return inner.__enter__()
        return record.take(inner.acquire, (), {}, frame)

    synchronize.Condition.__enter__ = enter_condition
    semlock._make_name, semlock._make_methods = name, methods
    for name in ("enter", "exit"):
        setattr(semlock, "_dbgproxy_" + name, Unmonitored("_semlock.__%s__" % (name,)))
    semlock.__enter__ = Direct(
        attrgetter("_dbgproxy_enter"), lambda lock: enter_from(lock, outside(getframe(1)))
    )
    semlock.__exit__ = Direct(attrgetter("_dbgproxy_exit"), lambda lock, *error: lock.__exit__(*error))
    synchronize.Semaphore.__exit__ = leave


class Direct(property):
    """A method that each object has for itself: a `with` statement finds it without a call of a Python function.

    Who calls the class's, as `ExitStack` does, comes by the other function.
    """

    def __init__(self, get, called):
        property.__init__(self, get)
        self.called = called

    def __call__(self, owner, *args):
        return self.called(owner, *args)


class Unmonitored:
    """Such a method of those that have nothing of their own for it."""

    def __init__(self, name):
        self.get = attrgetter(name)

    def __get__(self, owner, cls=None):
        return self if owner is None else self.get(owner)


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
            frame = outside(getframe(1))
            if not counts and not self._locked and not self._waiters:
                # What `acquire` does first, on every Python.
                self._locked = True
                record.took(frame, current_task())
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
                record.task = ref_to(_records.running())
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


def _after_fork_in_child():
    stamped[0] = 0


os.register_at_fork(after_in_child=_after_fork_in_child)
