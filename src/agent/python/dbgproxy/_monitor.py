"""What the agent sees of a process's locks, event loops and tasks, and tells the daemon in samples.

Loops and tasks are looked at by the agent's own thread, with nothing patched, and with no more than a hundredth of a
core: a look that was expensive makes the next one later. Of locks it tells what `_records` has noted.

Nothing here keeps a task or a frame of the program alive: references are weak, and what a look has gathered is dropped
at its end. This module knows nothing of the connection to the daemon.
"""

import itertools
import os
import sys
import time
import weakref

from _thread import allocate_lock, get_ident
from time import monotonic

from . import _records
from ._code import file_of, is_agent, is_debugger, is_library, is_library_file, place, text
from ._link import Encoded
from ._locks import fields
from ._process import attempt
from ._records import ACTORS, LOST, lost, nothing, numbers, record_row, records, snapshot, wrapped

#: Of a sample: locks, tasks, calls of a chain or stack, and exceptions.
ROWS, CHAIN, EXCEPTIONS = 200, 20, 20
#: Characters of a whole sample; a larger one has fewer rows. The daemon does not read more than a MiB.
SAMPLE = 1000000
#: Loops that are watched, threads that are searched for them, and calls of each that are searched.
LOOPS, THREADS, DEPTH = 20, 200, 200
#: Exceptions that are remembered to have been told.
SEEN = 1000
#: Seconds between looks at what a loop does, and from which on a callback blocks it.
LOOK, BLOCKED = 0.05, 0.1
#: Seconds at least between two samples, also if a blocked loop is to be told of at once.
AT_LEAST = 0.25
#: The part of a core that samples may take, and looks at loops beside them as much again.
SHARE = 0.005
#: Seconds that the last sample may take of the program's end, each for waiting until its turn and by what is known.
LAST = 0.05


#: Exceptions that asyncio has said nobody asked for, as they are told; and those that a look has found before: by id,
#: weak references to their tasks, or None once these are gone.
_heard = []
_seen = {}


def hear(record):
    """A filter of asyncio's log, which hears of exceptions that nobody can ask for any more, and lets all pass."""
    attempt(note_unretrieved, record)
    return True


def note_unretrieved(record):
    what, _, future = record.msg.partition("\n")
    error = record.exc_info and record.exc_info[1]
    if error is None or not what.endswith(" exception was never retrieved"):
        return
    if id(error) in _seen:
        _seen.pop(id(error), None)
    elif len(_heard) < EXCEPTIONS:
        name = future.partition(" name=")[2]
        _heard.append(exception_row(error, name[1:].partition(name[:1])[0] if name else ""))


class Task:
    """What is remembered of a task: its number, since when it is known, and how it ended."""

    __slots__ = ("id", "since", "is_done")

    def __init__(self, now):
        self.id = "%d" % next(numbers)
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
        #: Held by whoever looks.
        self.looking = allocate_lock()
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
        with self.looking:
            return self.turn_alone(send)

    def turn_alone(self, send):
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
                send(encoded(body))
            self.cost = time.thread_time() - begun
            self.last = now
            self.due = now + max(self.interval, (self.cost + self.spent) / SHARE)
            self.spent = 0.0
        wait = self.due - monotonic()
        if self.loops:
            wait = min(wait, max(LOOK, self.look_cost / SHARE))
        return max(wait, 0.001)

    def tell_last(self, send):
        """Tells how things are at the end of the program, in its own thread, unless that would take time."""
        if self.cost > LAST or not self.looking.acquire(True, LAST):
            return
        try:
            body = self.sample(monotonic())
            if body is not None:
                send(encoded(body))
        finally:
            self.looking.release()

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
        return _records.is_used if part == "locks" else part in self.parts

    # ---- locks ----------------------------------------------------------------------------------------------

    def sample_locks(self, now, seen):
        every = snapshot(records.values) + snapshot(wrapped.copy)
        alive = set(sys._current_frames())
        found = []
        for record in every:
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
        first = list(seen.values()) + lost[-LOST:]
        total = len(first) + len(every)
        return {
            "total": total, "dropped": _records.left_out + max(total - ROWS, 0), "locks": (first + rows)[:ROWS],
        }

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
        elif task is not None:
            task_name = "(gone)"
        return {"thread": ident or 0, "name": text(name or "thread"), "task": task_id, "taskName": task_name}

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
            counts["created"] = max(counts["created"], sys.modules[__package__ + "._patch"].stamped[0])
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
        """Exceptions that nobody has asked for since the sample before, or can any more; each is told once."""
        logger = getattr(sys.modules.get("asyncio.log"), "logger", None)
        if logger is not None and hear not in logger.filters:
            logger.addFilter(hear)
        for key, ref in list(_seen.items()):
            task = ref and ref()
            if task is None and ref is not None:
                _seen[key] = None  # What asyncio says of its end may come in this moment.
            elif task is None or not task._log_traceback:
                _seen.pop(key, None)  # Nothing will be said of it any more, and its id is another's soon.
        found = []
        suspects, self.suspects = self.suspects, []
        for ref in suspects:
            task = ref()
            if task is not None and getattr(task, "_log_traceback", False) and len(found) < EXCEPTIONS:
                row = attempt(exception_row, task._exception, task.get_name())
                if row is not None:
                    found.append(row)
                    if len(_seen) < SEEN:
                        _seen[id(task._exception)] = ref
        while _heard and len(found) < EXCEPTIONS:
            found.append(_heard.pop(0))
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
        if lock is not None and "_dbgproxy" not in fields(lock):
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
            depth = 0
            while frame is not None and depth < DEPTH and frame.f_code is not handle_run:
                if frame.f_code.co_name == "_run_once":
                    # Between two callbacks.
                    frame = None
                    break
                frame = frame.f_back
                depth += 1
            handle = frame.f_locals.get("self") if frame is not None and frame.f_code is handle_run else None
            if handle is None:
                loop.begins(nothing, now)
            elif loop.handle() is not handle:
                loop.begins(weakref.ref(handle), now)
            elif is_in_debugger(top):
                loop.since = now  # What the debugger takes is not the callback's.
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
                if is_in_debugger(top):
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


def is_in_debugger(frame):
    """Does it do what the debugger wants, such as standing still, and nothing of the program's?"""
    depth = 0
    while frame is not None and depth < DEPTH and is_library(frame.f_code):
        if is_debugger(frame.f_code):
            return True
        frame = frame.f_back
        depth += 1
    return False


def stack_of(frame, until):
    """The calls that the program makes in there, the innermost first; all, if there are none of its own."""
    own, every = [], []
    depth = 0
    while frame is not None and frame is not until and depth < DEPTH and len(own) < CHAIN:
        code = frame.f_code
        call = [text(getattr(code, "co_qualname", code.co_name)), file_of(code), frame.f_lineno or 0]
        if not is_library(code):
            own.append(call)
        elif len(every) < CHAIN and not is_agent(code):
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
            if not is_agent(code) and len(chain) < CHAIN:
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


def exception_row(error, task):
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
    return {"task": text(task), "message": text(message), "site": site}


def encoded(body):
    """A sample as it is sent: with fewer rows, if it would be too large."""
    found = Encoded(body)
    parts = [body[part] for part in ("locks", "tasks") if body.get(part)]
    while len(found.text) > SAMPLE and any(of.get("locks") or of.get("tasks") for of in parts):
        for of in parts:
            rows = of["locks"] if "locks" in of else of["tasks"]
            of["dropped"] += len(rows) - len(rows) // 2
            del rows[len(rows) // 2 :]
        found = Encoded(body)
    return found


def _after_fork_in_child():
    _heard.clear()
    _seen.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
