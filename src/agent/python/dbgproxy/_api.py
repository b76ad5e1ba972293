"""The public functions of the package, see `dbgproxy`.

They speak with the daemon through the agent's connection, and know nothing of how it is made. What they ask, the
daemon may refuse, and never answer: each wait has a limit, and each failure is a result, never an exception.
"""

from __future__ import annotations

import _thread
import os
import sys
import time

TYPE_CHECKING = False  # Type checkers take it for true. `typing` would be large to load.
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Dict, Iterable, List, Literal, Mapping, Optional, Tuple, Type
    from typing import TypeVar, Union

    from types import TracebackType
    from uuid import UUID

    Status = Literal["created", "running", "completed", "failed", "cancelled"]
    #: "file:line", or ("file", line), or ("file", line, condition).
    Location = Union[str, Tuple[str, int], Tuple[str, int, Optional[str]]]
    Message = Dict[str, Any]
    T = TypeVar("T")

_agent: Any
_link: Any
_process: Any
try:
    from . import _agent, _link, _process
except Exception:  # No CPython, or no system that the agent knows: then nothing here does anything.
    _agent = _link = _process = None

#: Seconds to wait for the daemon's answer.
WAIT = 2.0
#: Seconds to wait until breakpoints are set: a process that sleeps has to load its debugger first.
PLACING = 10.0
#: Seconds of one request to wait for an IDE, which is made again and again, and that its answer may come late: while
#: the agent loads the debugger, it hears nothing.
TURN, LATE = 10.0, 0.1
#: Seconds between two looks for what another thread does.
LOOK = 0.002
#: Characters of a name or of an error's message.
TEXT = 1000
#: Of metadata: characters as JSON, elements of a collection, and collections in each other.
METADATA, ELEMENTS, DEPTH = 4096, 100, 6
#: Breakpoints of one session; further ones are not set.
BREAKPOINTS = 100
#: Where a daemon is if nobody says otherwise.
ADDRESS = "127.0.0.1:5678"


# ---- sessions ----------------------------------------------------------------------------------------------------

#: The sessions that are under way in this process and, after a fork, in the one that it is a copy of.
_running: Dict[int, DebugSession] = {}


class DebugSession:
    """A part of a program's work that the daemon lists while it lasts, and after; see `debug_session`."""

    #: The session's id: the text of a UUID.
    session_id: str
    #: What people call it.
    name: str
    #: "running", and then "completed", "failed" or "cancelled"; "created" before it begins.
    status: Status
    #: What kind of work it is, and whose, if that was said.
    session_type: Optional[str]
    owner: Optional[str]
    #: What else is to be known of it. What the block changes here, the daemon is told at the end.
    metadata: Dict[str, Any]

    def __init__(
        self,
        name: str,
        session_id: Union[str, UUID, None] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        breakpoints: Iterable[Location] = (),
        session_type: Optional[str] = None,
        owner: Optional[str] = None,
    ) -> None:
        self.session_type = _attempt(str, session_type) if session_type is not None else None
        self.owner = _attempt(str, owner) if owner is not None else None
        self.name = _attempt(str, name) or ""
        self.session_id = (_attempt(str, session_id) if session_id is not None else None) or _uuid4()
        self.metadata = _attempt(dict, metadata) or {}
        self.status = "created"
        self._error: Optional[Dict[str, str]] = None
        self._pid = 0
        self._breakpoints: List[_Breakpoint] = _attempt(_breakpoints, breakpoints) or []

    def __repr__(self) -> str:
        return "<dbgproxy.DebugSession %r %s %s>" % (self.name, self.session_id, self.status)

    def __enter__(self) -> DebugSession:
        _attempt(self._begin)
        try:
            _wait(self._is_placed, PLACING)
        except BaseException as error:  # Control-C, or what else a signal does in the program.
            self._end(error)
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._end(error)
        _wait(self._is_removed, WAIT)

    async def __aenter__(self) -> DebugSession:
        _attempt(self._begin)
        try:
            await _wait_async(self._is_placed, PLACING)
        except BaseException as error:  # The task is cancelled.
            self._end(error)
            raise
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._end(error)
        await _wait_async(self._is_removed, WAIT)

    def _begin(self) -> None:
        self.status = "running"
        self._error = None
        self._pid = os.getpid()
        _running[id(self)] = self
        agent = _linked(0)
        if agent is not None:
            self._announce(agent, agent.link)

    def _announce(self, agent: Any, link: Any) -> None:
        """To a daemon that has not heard of it: at its beginning, or because that daemon is new."""
        self._tell(agent, link)
        for each in self._breakpoints:
            each.add(agent, link)

    def _end(self, error: Optional[BaseException]) -> None:
        self.status = _attempt(_status, error) or "failed"
        _running.pop(id(self), None)
        if self._pid != os.getpid():
            return  # A child that was forked within the block: the block is its parent's.
        if self.status == "failed" and error is not None:
            self._error = {"type": _type_name(error), "message": _text(_attempt(str, error) or "")}
        agent = _linked(0)
        if agent is not None:
            self._tell(agent, agent.link)
            for each in self._breakpoints:
                _attempt(each.remove, agent)

    def _tell(self, agent: Any, link: Any) -> None:
        body = _attempt(self._describe)
        if body is not None and link is not None:
            _attempt(link.event, "dbgproxy/debugSession", body)

    def _describe(self) -> Message:
        body: Message = {
            "id": _text(self.session_id),
            "name": _text(self.name),
            "status": self.status,
            "metadata": _metadata(self.metadata),
        }
        if self.session_type is not None:
            body["type"] = _text(self.session_type)
        if self.owner is not None:
            body["owner"] = _text(self.owner)
        if self._error is not None:
            body["error"] = self._error
        return body

    def _is_placed(self) -> bool:
        agent = getattr(_agent, "agent", None)
        is_coming = agent is not None and agent.link is None and agent.is_trying
        return all(each.answered or not (each.links or is_coming) for each in self._breakpoints)

    def _is_removed(self) -> bool:
        return self._pid != os.getpid() or all(each.is_removed for each in self._breakpoints)


def debug_session(
    name: str,
    session_id: Union[str, UUID, None] = None,
    metadata: Optional[Mapping[str, Any]] = None,
    breakpoints: Iterable[Location] = (),
) -> DebugSession:
    """A part of the program's work, to be seen in `dbgproxy sessions --json` while it runs and when it has ended::

        with dbgproxy.debug_session("import", metadata={"file": path}) as session:
            ...
        async with dbgproxy.debug_session("import"):
            ...

    The block's `session.status` is "running", and then "completed", "failed" (an exception; the daemon is told its type
    and message) or "cancelled" (`asyncio.CancelledError`, `KeyboardInterrupt`, or a generator that is closed).
    Exceptions pass through unchanged.

    name: what people call it.
    session_id: a UUID of your own, else it gets one; it is not the id of the process.
    metadata: anything that JSON can say, up to 4 KiB.
    breakpoints: each a "file:line", ("file", line) or ("file", line, condition). They are set in this process alone for
        as long as the block runs, and removed after it. They need a daemon, and debugpy in the process.

    A child process that is forked within the block leaves it without a word: the block is its parent's.
    Without a daemon this only keeps the status.
    """
    return DebugSession(name, session_id, metadata, breakpoints)


def monitor_session(
    session_id: Union[str, UUID],
    session_type: str,
    owner: Optional[str] = None,
    metadata: Optional[Mapping[str, Any]] = None,
) -> DebugSession:
    """A session of the program's own, such as a user's, a job's or a connection's, for the monitor to list::

        with dbgproxy.monitor_session(request.id, "request", owner=user.name):
            ...
        async with dbgproxy.monitor_session(job.id, "job"):
            ...

    The daemon is told of it at once, as "created"; what else is said of `debug_session`'s holds here, too.

    session_id: what the program calls it; two with the same are the same for the daemon.
    session_type: what kind of session it is, in a word.
    owner: whose it is.
    metadata: anything that JSON can say, up to 4 KiB.
    """
    session = DebugSession(_attempt(str, session_id) or "", session_id, metadata, (), session_type, owner)
    session._pid = os.getpid()
    agent = _linked(0)
    if agent is not None:
        session._tell(agent, agent.link)
    return session


async def debug_async_operation(coroutine: Awaitable[T], name: Optional[str] = None) -> T:
    """Awaits something within a `debug_session`, and returns its result.

    name: what people call it, else the name of the coroutine's function.
    """
    if name is None:
        name = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
    async with debug_session(name):
        return await coroutine


def _status(error: Optional[BaseException]) -> Status:
    if error is None or isinstance(error, SystemExit) and not error.code:
        return "completed"
    cancelled = getattr(sys.modules.get("asyncio.exceptions"), "CancelledError", KeyboardInterrupt)
    return "cancelled" if isinstance(error, (KeyboardInterrupt, GeneratorExit, cancelled)) else "failed"


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return _text(kind.__qualname__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__qualname__)


def _announce(agent: Any, link: Any) -> None:
    """The agent has a new connection: the daemon there knows of none of this process's sessions."""
    for session in list(_running.values()):
        if session._pid == os.getpid():
            _attempt(session._announce, agent, link)


# ---- locks -------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:

    class MonitoredLock:
        """A lock that the monitor sees, to be used in the place of the one that it wraps::

            lock = dbgproxy.MonitoredLock(name="accounts")
            with lock:
                ...
            cache.lock = dbgproxy.MonitoredLock(cache.lock, "cache")

        lock: one of `threading`, `multiprocessing` or `asyncio`, or whatever else has `acquire` and `release`; without
            one it is a new `threading.Lock`. What it has, this has, too, and it behaves as that one does. In a
            coroutine, `async with` takes a lock of threads without blocking the loop.
        name: what people call it, else it is called by its line.
        """

        def __init__(self, lock: Any = None, name: Optional[str] = None) -> None: ...
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            """Takes the lock, as the one that it wraps does; of a lock of asyncio it is awaited."""
            ...

        def release(self) -> None:
            """Gives it back."""

        def locked(self) -> bool:
            """Does anybody hold it?"""
            ...

        def __enter__(self) -> Any: ...
        def __exit__(self, *error: Any) -> None: ...
        async def __aenter__(self) -> Any: ...
        async def __aexit__(self, *error: Any) -> None: ...

    def monitor_lock(name: str, lock: Any = None) -> MonitoredLock:
        """A lock as the monitor sees it, for a `with` or an `async with`, as often as it is needed::

            with dbgproxy.monitor_lock("accounts", lock):
                ...
            async with dbgproxy.monitor_lock("cache", asyncio_lock):
                ...

        name: what people call it.
        lock: any that `MonitoredLock` takes; without one it is the process's lock of that name, which is there as long
            as somebody has it.

        All that is monitored of one lock is the same lock to the monitor, wherever that is.
        """
        ...

else:
    # They are the monitor's own, since a call in between would be too slow.
    from ._locks import MonitoredLock, monitor_lock


# ---- breakpoints -------------------------------------------------------------------------------------------------


class _Breakpoint:
    """A breakpoint that is set as long as its session runs."""

    def __init__(self, file: str, line: int, condition: Optional[str] = None) -> None:
        self.arguments = _arguments(file, line, condition, None)
        #: The connections on which it was asked for; there is one request on each.
        self.links: Dict[Any, object] = {}
        self.answered = False
        self.id: Optional[int] = None
        self.is_over = self.is_removed = False

    def add(self, agent: Any, link: Any) -> None:
        if self.links.setdefault(link, claim := object()) is not claim:
            return
        for former in list(self.links):
            if former is not link:
                self.links.pop(former, None)
        self.answered = self.is_over = self.is_removed = False

        def answered(response: Optional[Message]) -> None:
            found = _breakpoint_id(response)
            if self.is_over and found is not None:
                agent.ask("dbgproxy/breakpoints.remove", {"id": found}, lambda response: None, link)
            elif link in self.links:
                self.id = found
                self.answered = True

        agent.ask("dbgproxy/breakpoints.add", self.arguments, answered, link)

    def remove(self, agent: Any) -> None:
        def answered(response: Optional[Message]) -> None:
            self.is_removed = True

        self.is_over = True
        self.links.clear()
        # One of which the daemon has not said anything yet is removed when it does.
        if self.id is None:
            self.is_removed = True
        else:
            found, self.id = self.id, None
            agent.ask("dbgproxy/breakpoints.remove", {"id": found}, answered)


def _breakpoints(locations: Iterable[Location]) -> List[_Breakpoint]:
    found: List[_Breakpoint] = []
    for location in locations:
        if len(found) == BREAKPOINTS:
            break
        if isinstance(location, str):
            file, _, line = location.rpartition(":")
            one = _attempt(_Breakpoint, file, line)
        else:
            one = _attempt(_Breakpoint, *location)
        if one is not None:
            found.append(one)
    return found


def _arguments(file: str, line: int, condition: Optional[str], hit_count: Union[int, str, None]) -> Message:
    """What `breakpoints.add` takes."""
    path = os.fsdecode(os.path.abspath(file))
    if path.startswith(os.getcwd() + os.sep + "<"):
        path = file  # No file, but what a debugger takes for one, such as <stdin>.
    arguments: Message = {"file": _process.clean(path), "line": int(line)}
    if condition is not None:
        arguments["condition"] = _process.clean(str(condition))
    if hit_count is not None:
        arguments["hitCondition"] = _process.clean(str(hit_count))
    return arguments


def _breakpoint_id(response: Optional[Message]) -> Optional[int]:
    found = (_body(response) or {}).get("breakpoint") or {}
    number = found.get("id")
    return number if isinstance(number, int) else None


# ---- the IDE -----------------------------------------------------------------------------------------------------


def breakpoint() -> None:
    """Stops here if an IDE is attached to this process; else it does nothing, and costs next to nothing."""
    pydevd: Any = sys.modules.get("pydevd")
    if pydevd is None:
        return
    try:
        if not pydevd._is_attached():
            return
        frame = sys._getframe(1)
        pydevd.settrace(
            suspend=True,
            trace_only_current_thread=True,
            patch_multiprocessing=False,
            notify_stdin=False,
            stop_at_frame=frame,
        )
    except Exception:
        pass


def wait_for_ide(timeout: Optional[float] = None) -> bool:
    """Waits until an IDE is attached to this process and has set its breakpoints, and says whether one is.

    timeout: the most seconds to wait; None to wait as long as it takes.

    Without a daemon, when the daemon goes, or where there is no debugpy, it returns False at once.
    """
    try:
        until = None if timeout is None else time.monotonic() + float(timeout)
    except (TypeError, ValueError, OverflowError):
        return _has_ide()
    while not _has_ide():
        left = TURN if until is None else max(min(until - time.monotonic(), TURN), 0.0)
        response = _ask("dbgproxy/waitForIde", {"timeout": left}, left + LATE)
        if response is None and _linked(0) is None:
            break
        if response is not None:
            body = _body(response)
            if body is None:
                break
            if body.get("attached") is True:
                # The debugger in the process is about to hear of it, with the breakpoints before that.
                _wait(_has_ide, WAIT)
        if until is not None and until <= time.monotonic():
            break
        time.sleep(LOOK)
    return _has_ide()


def _has_ide() -> bool:
    pydevd: Any = sys.modules.get("pydevd")
    # It may be half loaded, by the agent's thread.
    return pydevd is not None and _attempt(lambda: pydevd._is_attached()) is True


# ---- the daemon --------------------------------------------------------------------------------------------------


def connect(address: Optional[str] = None) -> bool:
    """Connects a process that was started without dbgproxy to the daemon, and says whether it is connected now.

    address: HOST:PORT or unix:PATH; else that of the variable DBGPROXY, else 127.0.0.1:5678.

    Where there is no daemon, the process goes on looking for one. Processes that it forks come along; Pythons that it
    starts do if `dbgproxy run` or `dbgproxy env` has prepared the environment. A process has one daemon: asked for
    another address than the one it looks for a daemon at, it stays there, and says False.
    """
    found = _attempt(_boot, address)
    if not found or _linked(WAIT) is None:
        return False
    # The agent hears the answer when it has done what the daemon wanted first, such as loading the debugger.
    _ask("dbgproxy/info", {}, PLACING)
    return _linked(0) is not None


def _boot(address: Optional[str]) -> bool:
    """Starts the agent, if there is none; says whether it is at that address."""
    agent = _agent.agent
    address = str(address or (agent and agent.address) or os.environ.get("DBGPROXY") or ADDRESS)
    if agent is None:
        main = _main_thread()
        if main is not None:
            _agent.boot(address, main)
    return _agent.agent is not None and _agent.agent.address == address


def info() -> Dict[str, Any]:
    """What is known of this process, without asking anybody:

    `version` of this package, `pid`, whether it is `connected` to a daemon and at which `address` that is, the
    `session_id` that the process has there, whether the debugger is loaded (`active`), and whether an IDE is attached
    (`ide`).
    """
    from . import __version__

    agent = getattr(_agent, "agent", None)
    return {
        "version": __version__,
        "pid": os.getpid(),
        "connected": getattr(agent, "link", None) is not None,
        "address": getattr(agent, "address", None),
        "session_id": getattr(agent, "session", None),
        "active": _is_active(),
        "ide": _has_ide(),
    }


class RemoteDebugger:
    """What this process can ask of the daemon; see `get_remote_debugger`."""

    @property
    def session_id(self) -> Optional[str]:
        """The session that this process is for the daemon; None if it has never looked for one."""
        found = getattr(getattr(_agent, "agent", None), "session", None)
        return found if isinstance(found, str) else None

    def list_sessions(self) -> List[Dict[str, Any]]:
        """All live processes that the daemon knows, as `dbgproxy sessions --json` lists them; [] without a daemon."""
        found = (_body(_ask("dbgproxy/sessions", {})) or {}).get("sessions")
        return found if isinstance(found, list) else []

    def get_session_info(self, session_id: Optional[str] = None) -> Optional[Dict[str, Any]]:
        """What the daemon knows of one process, else of this one; None if it knows none, or there is no daemon."""
        wanted = session_id or self.session_id
        if wanted is None:
            return None
        found = (_body(_ask("dbgproxy/session", {"session": _text(str(wanted))})) or {}).get("session")
        return found if isinstance(found, dict) else None

    def set_breakpoint(
        self, file: str, line: int, condition: Optional[str] = None, hit_count: Optional[int] = None
    ) -> Optional[int]:
        """Sets a breakpoint in this process, and gives its id; None if that is not possible.

        condition: an expression; it stops only where that is true.
        hit_count: it stops when it is reached for that time. Where both are given, either is enough for pydevd.

        It stays until it is removed, the process ends, or the daemon does.
        """
        try:
            arguments = _arguments(file, line, condition, hit_count)
        except Exception:
            return None

        def remove(response: Optional[Message]) -> None:
            found = _breakpoint_id(response)
            if found is not None:
                _agent.agent.ask("dbgproxy/breakpoints.remove", {"id": found}, lambda response: None)

        return _breakpoint_id(_ask("dbgproxy/breakpoints.add", arguments, PLACING, remove))

    def remove_breakpoint(self, id: Optional[int]) -> bool:
        """Removes a breakpoint that this process has set; False if there is none of that id."""
        if not isinstance(id, int):
            return False
        return _body(_ask("dbgproxy/breakpoints.remove", {"id": id})) is not None


_remote_debugger = RemoteDebugger()


def get_remote_debugger() -> RemoteDebugger:
    """The one object of the process for what it can ask of the daemon: sessions, and breakpoints in itself."""
    return _remote_debugger


def _is_active() -> bool:
    constants: Any = sys.modules.get("_pydevd_bundle.pydevd_constants")
    return constants is not None and _attempt(lambda: constants.get_global_debugger()) is not None


def _main_thread() -> Optional[int]:
    """The main thread of this process; None in an interpreter within another, which must not have threads at its end."""
    import threading

    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = __import__(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            return None
        break
    return threading.main_thread().ident


# ---- waiting, and texts ------------------------------------------------------------------------------------------


def _linked(wait: float) -> Any:
    """The agent, if it is connected, or is so within so many seconds; it waits only while that may be."""
    agent = getattr(_agent, "agent", None)
    if agent is None:
        return None
    if agent.link is None and wait and agent.thread != _thread.get_ident():
        _wait(lambda: agent.link is not None or not agent.is_trying, wait)
    return agent if agent.link is not None else None


def _ask(
    command: str,
    arguments: Message,
    wait: float = WAIT,
    late: Optional[Callable[[Optional[Message]], None]] = None,
) -> Optional[Message]:
    """The daemon's response, if it comes within so many seconds; one that comes later goes to `late`."""
    agent = _linked(WAIT)
    if agent is None or agent.thread == _thread.get_ident():
        return None
    responses: List[Optional[Message]] = []
    #: One ticket for who decides whether the response is in time.
    tickets = [None]
    done = _thread.allocate_lock()
    done.acquire()

    def answered(response: Optional[Message]) -> None:
        try:
            tickets.pop()
        except IndexError:
            if late is not None:
                late(response)
        else:
            responses.append(response)
            done.release()

    agent.ask(command, arguments, answered)
    if not done.acquire(True, wait):
        try:
            tickets.pop()
            return None
        except IndexError:
            done.acquire()  # It comes in this moment.
    return responses[0]


def _body(response: Optional[Message]) -> Optional[Message]:
    """What a response says; None if it is a failure, or none."""
    if response is None or response.get("success") is not True:
        return None
    body = response.get("body")
    return body if isinstance(body, dict) else {}


def _wait(is_so: Callable[[], bool], limit: float) -> None:
    until = time.monotonic() + limit
    while not is_so() and time.monotonic() < until:
        time.sleep(LOOK)


async def _wait_async(is_so: Callable[[], bool], limit: float) -> None:
    """The same, and other tasks run meanwhile, if asyncio runs them."""
    if is_so():
        return
    try:
        import asyncio

        asyncio.get_running_loop()
    except (ImportError, RuntimeError):
        return _wait(is_so, limit)
    until = time.monotonic() + limit
    while not is_so() and time.monotonic() < until:
        await asyncio.sleep(LOOK)


def _uuid4() -> str:
    if _process is not None:
        return str(_process.uuid4())
    import uuid

    return str(uuid.uuid4())


def _text(text: str) -> str:
    return str(_process.clean(text, TEXT)) if _process is not None else text


def _metadata(metadata: Mapping[str, Any]) -> Message:
    plain = _plain(metadata, DEPTH)
    size = len(_link.encode(plain))
    return plain if size <= METADATA else {"dbgproxy": "left out: %d characters, and %d is the most" % (size, METADATA)}


def _plain(value: Any, depth: int) -> Any:
    """The same as JSON can say it; what it cannot, as a text."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    if isinstance(value, str):
        return _text(value)
    if depth > 0 and isinstance(value, dict):
        return {_text(_shown(key)): _plain(item, depth - 1) for key, item in list(value.items())[:ELEMENTS]}
    if depth > 0 and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth - 1) for item in list(value)[:ELEMENTS]]
    return _text(_shown(value))


def _shown(value: Any) -> str:
    shown = _attempt(str, value)
    return shown if isinstance(shown, str) else "<%s>" % type(value).__name__


def _attempt(function: Callable[..., T], *args: Any) -> Optional[T]:
    try:
        return function(*args)
    except Exception:
        return None
