"""dbgproxy inside a Python process.

Everything here works without a daemon too, and then does nothing, quietly::

    import dbgproxy

    with dbgproxy.debug_session("training", metadata={"rank": 0}):
        train()

    dbgproxy.breakpoint()              # stops here if an IDE is attached to this process
    dbgproxy.wait_for_ide(timeout=30)  # True once an IDE is attached and has set its breakpoints

    with dbgproxy.monitor_lock("accounts", lock):  # who holds it, who waits for it, and since when
        transfer()

`import dbgproxy` works in every process that `dbgproxy run` or `dbgproxy env` has prepared: nothing is to be
installed. A program that also runs without them guards the import::

    try:
        import dbgproxy
    except ImportError:
        dbgproxy = None

Nothing that goes wrong in here, with the daemon or on the way to it, raises an exception in the program.
Importing it imports nothing else; the rest is loaded at the first use.
"""

__version__ = "0.1.0"

__all__ = [
    "DebugSession",
    "MonitoredLock",
    "RemoteDebugger",
    "breakpoint",
    "connect",
    "debug_async_operation",
    "debug_session",
    "get_remote_debugger",
    "info",
    "monitor_lock",
    "monitor_session",
    "wait_for_ide",
]

TYPE_CHECKING = False  # Type checkers take it for true.
if TYPE_CHECKING:
    from ._api import DebugSession as DebugSession
    from ._api import MonitoredLock as MonitoredLock
    from ._api import RemoteDebugger as RemoteDebugger
    from ._api import breakpoint as breakpoint
    from ._api import connect as connect
    from ._api import debug_async_operation as debug_async_operation
    from ._api import debug_session as debug_session
    from ._api import get_remote_debugger as get_remote_debugger
    from ._api import info as info
    from ._api import monitor_lock as monitor_lock
    from ._api import monitor_session as monitor_session
    from ._api import wait_for_ide as wait_for_ide
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError("module %r has no attribute %r" % (__name__, name))
        from . import _api

        # From now on they are found without this function, and faster: CPython remembers where, if there is none.
        globals().update((each, getattr(_api, each)) for each in __all__)
        globals().pop("__getattr__", None)
        return globals()[name]

    def __dir__():
        return sorted(set(globals()).union(__all__))
