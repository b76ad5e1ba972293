"""Debugging in a process that has run without: loads pydevd, connects it to the daemon, and takes it out again.

It is imported when the process is activated for the first time. It knows how to get pydevd into a running process
and out of it without a trace; what pydevd and the daemon say to each other is their business, and what a dead daemon
must not do to the program is the guard's.
"""

import _thread
import contextlib
import os
import sys
import time

from . import _agent, _link, _watchdog
from ._process import attempt, token

HERE = os.path.dirname(os.path.abspath(__file__))
#: Seconds between two offers of the interpreter to other threads while debugpy is loaded beside a busy program, which
#: would otherwise make the loading take five times as long.
SWITCH = 0.0005
#: Seconds that threads which were stopped get to leave the debugger.
LEAVE = 0.5
#: Keeps debugpy from warning of frozen modules on the program's stderr.
QUIET = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
#: What importing debugpy, or we for it, change in the environment, which the program's children would inherit.
SET_BY_IMPORT = ("PYDEVD_DISABLE_FILE_VALIDATION", "PYDEVD_USE_FRAME_EVAL", "PYDEVD_DEBUG", "PYDEVD_DEBUG_FILE")


class CannotActivate(Exception):
    """Says to people why, and what to do."""


#: pydevd's debugger while it is connected to the daemon by us; whoever sets it to None takes it out.
_debugger = None
_claim = _thread.allocate_lock()
#: Held while it is taken out.
_undoing = _thread.allocate_lock()
#: What `breakpoint()` calls: the program's own, and debugpy's.
_breakpoint_hooks = None
#: What `threading` had for new threads to be traced with before we came.
_trace_hook = None
#: The raw threads that had shown themselves to `threading` before we came.
_dummies = []


# ---- in ----------------------------------------------------------------------------------------------------------


def activate(agent, connected):
    """Connects pydevd to the daemon, calls `connected`, and returns when the daemon has configured it.

    In the main thread, where nothing of the program runs yet, or in the agent's.
    """
    global _trace_hook
    with _undoing:
        if _debugger is not None:
            return
    agent.loading = True
    try:
        threading = import_threading(agent.main_thread)
        pydevd = import_pydevd(_thread.get_ident() == agent.thread)
    finally:
        agent.loading = False
    if _global_debugger() is not None:
        raise CannotActivate("another debugger is in this process already")
    hide_thread(threading, agent.thread)
    forget_stops(threading)
    run_guard()
    watch_end(pydevd)
    _watchdog.watch(pydevd, lambda: threads(threading))
    _trace_hook = threading._trace_hook
    _dummies[:] = [thread for thread in threads(threading) if isinstance(thread, threading._DummyThread)]
    if sys.breakpointhook is _breakpoint_hooks[0]:
        sys.breakpointhook = _breakpoint_hooks[1]
    sock = dial(agent)
    start_client = pydevd.start_client

    def ours(host, port):
        global _debugger
        _debugger = _global_debugger()
        os.environ[_agent.AWAKE] = "1"
        return sock

    pydevd.start_client = ours
    try:
        connected()
        pydevd.settrace(
            host="127.0.0.1", port=0, suspend=False, patch_multiprocessing=False, notify_stdin=False,
            dont_trace_start_patterns=(os.path.dirname(os.path.abspath(sys.modules["debugpy"].__file__)), HERE),
            dont_trace_end_patterns=("debugpy_launcher.py", os.path.join(os.path.dirname(HERE), "sitecustomize.py")),
        )
    except BaseException:
        sock.close()
        raise
    finally:
        pydevd.start_client = start_client
    debugger = _debugger
    if debugger is not None and _thread.get_ident() == agent.thread:
        attempt(debugger.disable_tracing)  # In this thread, which settrace() has taken for one of the program.
        # Of what the program has suspended, pydevd knows nothing yet.
        attempt(sys.modules["_dbgproxy"].watch_resumed)
        attempt(remove_dummies, threading, [*sys._current_frames(), *_hidden(threading)])


def import_threading(main_thread):
    """The module `threading`, which takes the thread that imports it for the main one (until Python 3.13)."""
    if "threading" in sys.modules or _thread.get_ident() == main_thread:
        import threading

        return threading
    import importlib.util

    # Nobody sees the module before it is right.
    spec = importlib.util.find_spec("threading")
    threading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(threading)
    thread = threading._main_thread
    if thread._ident != main_thread:
        del threading._active[thread._ident]
        thread._ident = main_thread
        if sys.platform == "linux":
            thread._native_id = os.getpid()
        # The lock that it has got is released when *this* thread ends, and the end of the program waits for it.
        threading._shutdown_locks.discard(thread._tstate_lock)
        thread._tstate_lock = _thread.allocate_lock()
        thread._tstate_lock.acquire()
        threading._shutdown_locks.add(thread._tstate_lock)
        threading._active[main_thread] = thread
    return sys.modules.setdefault("threading", threading)


def import_pydevd(beside_program):
    """debugpy's pydevd: of the program's own debugpy, or else of the copy that `dbgproxy setup` has made."""
    global _breakpoint_hooks
    if _breakpoint_hooks is not None:
        return sys.modules["pydevd"]
    if "pydevd" in sys.modules and "debugpy" not in sys.modules:
        raise CannotActivate("another debugger, pydevd without debugpy, is in this process already")
    import warnings
    from importlib import import_module

    former = sys.breakpointhook
    variables = {name: os.environ.get(name) for name in SET_BY_IMPORT}
    interval = sys.getswitchinterval()
    os.environ.update(QUIET)
    if beside_program:
        sys.setswitchinterval(SWITCH)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                import_module("debugpy")
            except ModuleNotFoundError as error:
                if error.name != "debugpy":
                    raise
                import_copy(import_module)
            import_module("debugpy._vendored.force_pydevd")
            pydevd = import_module("pydevd")
    except CannotActivate:
        raise
    except Exception as error:
        raise CannotActivate("debugpy cannot be loaded in %s: %s" % (sys.executable, error))
    finally:
        if beside_program:
            sys.setswitchinterval(interval)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    _breakpoint_hooks = former, sys.breakpointhook
    return pydevd


def import_copy(import_module):
    version = "%d.%d" % sys.version_info[:2]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    copy = os.environ.get("DBGPROXY_DEBUGPY") or os.path.join(cache, "dbgproxy", "debugpy-" + version)
    sys.path.append(copy)
    try:
        import_module("debugpy")
        import_module("debugpy._vendored.force_pydevd")
    except ModuleNotFoundError as error:
        if error.name != "debugpy":
            raise
        raise CannotActivate(
            "debugpy is not installed for %s; run `dbgproxy setup`, or `%s -m pip install debugpy`"
            % (sys.executable, sys.executable)
        )
    finally:
        if copy in sys.path:
            sys.path.remove(copy)


def hide_thread(threading, ident):
    """Tells `threading` and pydevd of a raw thread of ours, as one that is not to be shown, stopped or traced.

    Both would otherwise find it themselves, and take it for one of the program.
    """
    from _pydevd_bundle.pydevd_daemon_thread import mark_as_pydevd_daemon_thread

    class Hidden(threading._DummyThread):
        is_pydev_daemon_thread = pydev_do_not_trace = True

        def __init__(self):
            threading.Thread.__init__(self, name="dbgproxy", daemon=True)
            self._ident = ident
            if hasattr(threading, "_make_thread_handle"):
                self._handle = threading._make_thread_handle(ident)

    thread = Hidden()
    # The first time, this makes threading.enumerate() pass over such threads.
    mark_as_pydevd_daemon_thread(thread)
    thread._started.set()
    threading._active[ident] = thread


def show_thread(threading):
    """The opposite: `threading` knows nothing of it again."""
    for ident in _hidden(threading):
        threading._active.pop(ident, None)


def _hidden(threading):
    return [ident for ident, thread in list(threading._active.items()) if type(thread).__name__ == "Hidden"]


def remove_dummies(threading, alive=()):
    """Takes out what pydevd has entered into `threading` for raw threads, and for threads that were just ending."""
    for ident, thread in list(threading._active.items()):
        if isinstance(thread, threading._DummyThread) and thread not in _dummies and ident not in alive:
            threading._active.pop(ident, None)


def run_guard():
    with open(os.path.join(HERE, "_guard.py"), "rb") as file:
        text = file.read()
    # As the daemon does it, which will run it again when pydevd is connected.
    module = sys.modules.setdefault("_dbgproxy", type(sys)("_dbgproxy"))
    exec(compile(text, "<frozen dbgproxy>", "exec"), vars(module))


def watch_end(pydevd):
    """However the debugging ends, nothing of it is to stay in the process."""
    dispose = pydevd.PyDB.dispose_and_kill_all_pydevd_threads
    if hasattr(dispose, "agent"):
        return

    def dispose_and_undo(self, *args, **kwargs):
        try:
            return dispose(self, *args, **kwargs)
        finally:
            # At the end of the program there is no need to.
            if self is _debugger and attempt(self.has_user_threads_alive) is not False:
                undo(self)

    dispose_and_undo.agent = True
    dispose_and_undo.dbgproxy = True  # The guard's mark: it has made what this wraps.
    pydevd.PyDB.dispose_and_kill_all_pydevd_threads = dispose_and_undo


def dial(agent):
    """A connection for pydevd, on which the daemon has been told whose it is."""
    import socket

    quiet = getattr(socket, "MSG_NOSIGNAL", 0)

    class DebugServerSocket(socket.socket):
        """A socket that leaves the program alone, whatever it does to signals and files that it knows nothing of."""

        file = None

        def check(self):
            if self.file is not None and _link.socket_file(self) != self.file:
                self.detach()
                raise OSError("the program has closed the debugger's connection")

        def recv(self, *args):
            self.check()
            return super().recv(*args)

        def send(self, data, flags=0):
            self.check()
            return super().send(data, flags | quiet)

        def sendall(self, data, flags=0):
            self.check()
            return super().sendall(data, flags | quiet)

        def close(self):
            attempt(self.check)
            super().close()

    sock = DebugServerSocket(fileno=_link.connect(agent.address).detach())
    sock.file = _link.socket_file(sock)
    hello = {
        "protocol": _agent.PROTOCOL, "role": "debugServer", "session": agent.session, "pid": os.getpid(),
        "token": token(),
    }
    message = {"seq": 1, "type": "request", "command": "dbgproxy/hello", "arguments": hello}
    sock.sendall(_link.frame(message))
    return sock


# ---- out ---------------------------------------------------------------------------------------------------------


def deactivate():
    """Takes the debugger out, if it is in; returns when it is out, whoever has done it."""
    debugger = _debugger
    if debugger is not None:
        undo(debugger)
    with _undoing:
        pass


def undo(debugger):
    """Ends the debugging: threads that are stopped run on, and the program is as fast as it was."""
    global _debugger
    with _claim:
        if _debugger is not debugger:
            return
        _debugger = None
    os.environ.pop(_agent.AWAKE, None)
    with _undoing, _no_fork():
        socket, threading = sys.modules["socket"], sys.modules["threading"]
        attempt(resume, threading)
        sock = attempt(lambda: debugger.writer.sock)
        # The reader ends at once, which pydevd would wait for in vain; the writer sends what it has.
        attempt(lambda: sock.shutdown(socket.SHUT_RD))
        attempt(debugger.dispose_and_kill_all_pydevd_threads)
        attempt(lambda: sock.shutdown(socket.SHUT_RDWR))
        attempt(lambda: sock.close())
        attempt(wait_until_left, threading)
        attempt(remove_tracing, threading)
        attempt(forget_stops, threading)
        attempt(restore)
        attempt(show_thread, threading)
        attempt(remove_dummies, threading)


@contextlib.contextmanager
def _no_fork():
    """A child that was forked half way would have neither a debugger nor none."""
    busy = _agent.agent.busy
    locked = busy.acquire(True, _agent.FORK_PATIENCE)
    try:
        yield
    finally:
        if locked:
            busy.release()


def resume(threading):
    """Each thread runs on, in pydevd's bookkeeping too; what it was to do there, it would do at the next coming."""
    for thread in threads(threading):
        info = getattr(thread, "additional_info", None)
        if info is not None:
            info.pydev_original_step_cmd = info.pydev_step_cmd = -1
            info.pydev_step_stop = None
            info.pydev_state = 1  # STATE_RUN


def wait_until_left(threading):
    """Stopped threads look five times a second whether they may go on."""
    until = time.monotonic() + LEAVE
    while time.monotonic() < until and any(
        getattr(getattr(thread, "additional_info", None), "is_in_wait_loop", False) for thread in threads(threading)
    ):
        time.sleep(0.01)


def threads(threading):
    """The program's own threads."""
    return [
        thread for thread in list(threading._active.values()) if not getattr(thread, "is_pydev_daemon_thread", False)
    ]


def forget_stops(threading):
    """What pydevd keeps with each thread is for this debugging only."""
    attempt(resume, threading)
    from _pydevd_bundle import pydevd_additional_thread_info, pydevd_constants

    for thread in threads(threading):
        info = getattr(thread, "additional_info", None)
        if info is not None:
            thread.additional_info = None
            # Each would keep a whole former debugger alive.
            attempt(lambda: pydevd_additional_thread_info.remove_additional_info(info))
            attempt(setattr, info, "thread_tracer", None)
            attempt(setattr, info, "top_level_thread_tracer_no_back_frames", [])
            attempt(setattr, info, "top_level_thread_tracer_unhandled", None)
    found = getattr(pydevd_constants, "_thread_id_to_thread_found", {})
    for key, thread in list(found.items()):
        if getattr(thread, "is_pydev_daemon_thread", False):
            found.pop(key, None)
    if _monitors():
        _sys_monitoring().reset_thread_local_info()


def remove_tracing(threading):
    from _pydev_bundle import pydev_monkey

    attempt(pydev_monkey.undo_patch_thread_modules)
    if _monitors():
        remove_monitoring()
    else:
        remove_trace_functions(threading)


def remove_monitoring():
    monitoring, tool = sys.monitoring, sys.monitoring.DEBUGGER_ID
    pydevd = _sys_monitoring()
    if monitoring.get_tool(tool) == "pydevd":
        # Code that had a breakpoint would be slow for ever.
        for module in list(sys.modules.values()):
            cache = getattr(module, "__dict__", {}).get("_code_to_func_code_info_cache")
            for code in list(cache or ()):
                attempt(monitoring.set_local_events, tool, code, 0)
        events = monitoring.events
        for event in (events.PY_RESUME, events.PY_UNWIND):
            monitoring.register_callback(tool, event, None)
        pydevd.stop_monitoring(all_threads=True)


def remove_trace_functions(threading):
    """Calls are as fast as before, but on Python 3.8 and 3.9 some 10 to 25 % slower: there the interpreter counts the
    threads that are traced, and never takes out one that ends meanwhile. pydevd makes such threads on purpose, and
    more of them than it takes out again; how many, nobody can know.
    """
    import pydevd_tracing

    pydevd_tracing.restore_sys_set_trace_func()
    threading.settrace(_trace_hook)
    sys.settrace(None)
    settrace = sys.settrace

    def unset(frame, event, arg):
        # Only a thread itself can switch its tracing off: at its next call, or line.
        settrace(None)
        while frame is not None:
            frame.f_trace = None
            frame = frame.f_back

    own = _thread.get_ident()
    hidden = [ident for ident, thread in list(threading._active.items()) if thread not in threads(threading)]
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != own and ident not in hidden}
    for frame in list(frames.values()):
        while frame is not None:
            if frame.f_trace is not None:
                frame.f_trace = unset
            frame = frame.f_back
    idents = list(frames)
    frames.clear()
    if idents:
        pydevd_tracing.set_trace_to_threads(unset, thread_idents=idents, create_dummy_thread=False)


def restore():
    """What pydevd has replaced for the program is the program's own again."""
    import pydevd
    from _pydevd_bundle import pydevd_io

    pydevd._global_redirect_stdout_to_server = pydevd._global_redirect_stderr_to_server = False
    for stream in ("stdout", "stderr"):
        attempt(pydevd_io.stop_redirect_stream_to_pydb_io_messages, stream)
    if sys.breakpointhook is _breakpoint_hooks[1]:
        sys.breakpointhook = _breakpoint_hooks[0]
    pydevd.SetupHolder.setup = None


# ---- forks -------------------------------------------------------------------------------------------------------


def disown():
    """In a child: the debugger is the parent's, and what is here of it is a copy that must not do anything."""
    global _debugger, _claim, _undoing
    debugger, _debugger = _debugger, None
    os.environ.pop(_agent.AWAKE, None)
    _claim, _undoing = _thread.allocate_lock(), _thread.allocate_lock()
    threading = sys.modules.get("threading")
    if threading is not None:
        attempt(show_thread, threading)
    if debugger is None:
        return
    from _pydevd_bundle import pydevd_constants

    debugger.pydb_disposed = True
    debugger.created_pydb_daemon_threads = {}
    attempt(debugger.writer.sock.close)
    attempt(pydevd_constants.after_fork)
    pydevd_constants.set_global_debugger(None)
    attempt(remove_tracing, threading)
    attempt(forget_stops, threading)
    attempt(restore)


def is_alone():
    """Has the program no threads but the one that asks?"""
    return len(threads(sys.modules["threading"])) == 1


def _global_debugger():
    return sys.modules["_pydevd_bundle.pydevd_constants"].get_global_debugger()


def _monitors():
    """Does pydevd use sys.monitoring, or trace functions?"""
    return getattr(sys.modules["_pydevd_bundle.pydevd_constants"], "PYDEVD_USE_SYS_MONITORING", False)


def _sys_monitoring():
    from _pydevd_sys_monitoring import pydevd_sys_monitoring

    return pydevd_sys_monitoring
