"""Keeps a server's master from killing a worker that the debugger has stopped, for its silence.

gunicorn's workers show that they are alive by the time of a file, and the master kills one that has not for
`--timeout` seconds. While a thread of such a worker is stopped, pydevd's own thread, which wakes five times a second,
does that for it. uvicorn's workers have a thread that answers the master's question, within
`--timeout-worker-healthcheck` seconds: it is not stopped with the others. A worker that runs is left to itself, so
that one that hangs is found as ever. It knows nothing of how the debugger comes and goes.
"""

import sys

from . import _agent
from ._process import attempt

#: pydevd's word for a thread that it has stopped.
STATE_SUSPEND = 2
#: The module of uvicorn's answering thread, and what that runs.
ANSWERING = ("uvicorn.supervisors.multiprocess", "Process.always_pong")


def watch(pydevd, threads):
    """From now on, does so; `threads()` are the program's own."""
    if hasattr(pydevd.PyDB.set_suspend, "agent"):
        return
    process, suspend = pydevd.PyDB.process_internal_commands, pydevd.PyDB.set_suspend

    def process_and_speak(self, *args, **kwargs):
        attempt(speak, threads)
        return process(self, *args, **kwargs)

    def exempt_and_suspend(self, *args, **kwargs):
        attempt(exempt, threads)
        return suspend(self, *args, **kwargs)

    exempt_and_suspend.agent = True
    pydevd.PyDB.process_internal_commands, pydevd.PyDB.set_suspend = process_and_speak, exempt_and_suspend


def speak(threads):
    """Shows gunicorn's master that the worker is alive, if this is one and it is stopped."""
    base = sys.modules.get("gunicorn.workers.base")
    if base is None or not any(map(is_stopped, threads())):
        return
    frame = sys._current_frames().get(_agent.agent.main_thread)
    while frame is not None:
        # Each worker does its work from within this method. The locals of the program's frames are left alone.
        if frame.f_code.co_name == "init_process":
            worker = frame.f_locals.get("self")
            if isinstance(worker, base.Worker):
                worker.tmp.notify()  # Its own notify() may do more.
                return
        frame = frame.f_back


def is_stopped(thread):
    return getattr(getattr(thread, "additional_info", None), "pydev_state", None) == STATE_SUSPEND


def exempt(threads):
    """Leaves uvicorn's answering thread out of what is stopped, if there is one."""
    if ANSWERING[0] not in sys.modules:
        return
    for thread in threads():
        target = getattr(thread, "_target", None)
        if (getattr(target, "__module__", None), getattr(target, "__qualname__", None)) == ANSWERING:
            thread.pydev_do_not_trace = True
