"""The agent of a process: it tells the daemon who the process is, then sleeps until it is asked for something.

It is imported at the start of every Python process, with `_link` and `_process`, so all three must cost next to
nothing: they import only what the interpreter has loaded or built in, and two small C modules. It knows nothing of
debugpy: what has to do with debugging is in `_activate`, which is loaded when somebody wants to debug.

Whatever happens here, the program must not notice. So the agent's one thread is a raw one, which `threading` does
not know; errors end in another try to reach the daemon; and nothing is ever printed.

The first message is the agent's request `dbgproxy/hello`; after that the daemon asks (see `Agent.handlers`) and the
agent tells (see `Agent.tell`).
"""

import _signal
import _thread
import atexit
import os
import sys
import time

from ._link import CONNECT, Link
from ._process import argv, attempt, clean, cwd, environment, helper, identity, process_name, script, token, uuid4

PROTOCOL = 1
#: Seconds that the program waits at its start, and in a child at a fork, for the daemon's answer; as long as for the
#: connection if it is told to wait.
PATIENCE = 0.05
#: Seconds until a daemon that cannot be reached is tried again: the first time, and at most; it doubles in between.
BACK_OFF, BACK_OFF_MOST = 0.25, 15.0
#: Seconds that a fork waits at most for the agent to come to a point where it may be copied; and while it loads the
#: debugger, when a child would have modules that are half loaded, for ever.
FORK_PATIENCE, FORK_PATIENCE_LOADING = 2.0, 20.0
#: Seconds between looks for a name that is not known at the start: the first time, and how often; it doubles too.
LOOK_AGAIN, LOOKS = 0.005, 12
#: Seconds between two samples of the monitor, whatever the daemon says.
INTERVAL_LEAST, INTERVAL_MOST = 0.05, 3600.0
#: Among multiprocessing's finalizers, which have greater numbers the earlier they are called: after the program's own.
FINALIZER = -1000
#: The session of this process, for its children to know their parent by.
SESSION = "DBGPROXY_SESSION"
#: Whose session that is: the identity of the process, a space, and its parent's session. A process that finds its
#: own identity here has been replaced by exec.
ORIGIN = "DBGPROXY_ORIGIN"

#: Set for the children of a process that is being debugged.
AWAKE = "DBGPROXY_AWAKE"

#: The agent of this process, if it has one.
agent = None


def boot(address=None, main_thread=None):
    """Starts the agent of this process; does nothing the second time, or where there is no daemon to look for.

    A program that runs already says where the daemon is, and which its main thread is; the agent does all in its own.
    """
    global agent
    address = address or os.environ.get("DBGPROXY")
    if agent is not None or not address or sys.implementation.name != "cpython":
        return
    if main_thread is None and not _is_main_interpreter():
        return
    session, origin = os.environ.get(SESSION) or None, os.environ.get(ORIGIN, "")
    whose, _, grandparent = origin.partition(" ")
    if session is not None and whose and whose == attempt(identity):
        agent = Agent(address, session, grandparent or None, "exec")
    else:
        agent = Agent(address, uuid4(), session, "start")
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(_at_exit)
    if main_thread is not None:
        agent.main_thread, agent.patience = main_thread, 0
    if agent.parts - {"tasks"}:
        # Before the program makes its first lock or task.
        attempt(_patch, agent.parts)
    agent.begin()


def _patch(parts):
    from . import _patch

    _patch.patch(parts)


def _is_main_interpreter():
    # A subinterpreter imports sitecustomize too, but must not have threads when it ends.
    try:
        _signal.set_wakeup_fd(_signal.set_wakeup_fd(-1))
        return True
    except ValueError:
        return False


class Agent:
    """The agent's connection to the daemon, and the thread that reads from it."""

    def __init__(self, address, session, parent, how):
        self.address = address
        self.session = session
        self.parent = parent
        self.how = how
        self.forked = how == "fork"
        #: The program's main thread, and the agent's own, by their idents.
        self.main_thread = _thread.get_ident()
        self.thread = None
        #: The signals that the program's threads block.
        self.mask = ()
        #: Held by whoever does what must not be cut in two by a fork.
        self.busy = _thread.allocate_lock()
        #: Is the debugger being loaded? A fork waits longer then.
        self.loading = False
        self.handlers = {"dbgproxy/activate": self.activate, "dbgproxy/deactivate": self.deactivate}
        self.link = None
        #: Is an attempt under way to reach the daemon?
        self.is_trying = True
        self.hello = None
        #: Is something of the hello about to change?
        self.unnamed = False
        #: One ticket for who acts on the daemon's first answer: the program, if it still waits, or the thread.
        self.tickets = []
        self.answered = _thread.allocate_lock()
        self.activate_first = False
        #: What of the process is monitored, how often if at all, and by what, once there is something to see.
        self.parts = monitored_parts()
        self.interval = None
        self.monitor = None
        #: Seconds that the program waits for that answer. Where somebody waits, or debugs the parent, the daemon is
        #: known to be there, and on a busy machine it may be a while until it has its turn.
        self.patience = CONNECT if "1" in (os.environ.get("DBGPROXY_WAIT"), os.environ.get(AWAKE)) else PATIENCE
        self._export()

    def _export(self):
        os.environ[SESSION] = self.session
        os.environ[ORIGIN] = "%s %s" % (attempt(identity) or "", self.parent or "")

    def begin(self):
        """Starts, before the program's code runs; in a fork's child before os.fork() returns."""
        try:
            self.start()
        except KeyboardInterrupt:
            # Held by the daemon: the program cannot be told yet, and Python would call it a fatal error of its own.
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
            os.kill(os.getpid(), _signal.SIGINT)

    def start(self):
        """Starts the thread; waits a little for the daemon's answer, and activates if that is what it says."""
        self.hello = self.describe()
        self.unnamed = attempt(self.is_to_be_named)
        if self.patience:
            self.answered.acquire()
            self.tickets.append(None)
        self.thread = _thread.start_new_thread(self.run, ())
        if not self.patience:
            return
        if not self.answered.acquire(True, self.patience):
            try:
                self.tickets.pop()
                return  # No answer in time: the thread will do what it says, whenever it comes.
            except IndexError:
                self.answered.acquire()  # It comes in this moment.
        if self.activate_first:
            self.activate_here()

    def describe(self):
        """What the hello says of this process."""
        forking = self.forked and self.hello is None
        return {
            "protocol": PROTOCOL, "role": "agent", "session": self.session, "parent": self.parent, "how": self.how,
            "pid": os.getpid(), "ppid": os.getppid(), "identity": attempt(identity), "argv": attempt(argv),
            "script": attempt(script), "cwd": attempt(cwd), "executable": attempt(clean, sys.executable),
            "python": sys.version.split()[0], "name": attempt(process_name, forking),
            "helper": attempt(helper, self.forked), "environment": attempt(environment), "token": token(),
        }

    # ---- the thread -------------------------------------------------------------------------------------------

    def run(self):
        """Finds the daemon, again and again, and does what it says."""
        delay = BACK_OFF
        try:
            self.thread = _thread.get_ident()
            self.mask = block_signals()
            while True:
                link = None
                self.is_trying = True
                try:
                    link = Link(self.address, self.busy)
                    self.serve(link)
                except Exception:
                    # The link is of no use any more, for whatever reason; and nobody needs to wait for an answer.
                    self.on_answer(False)
                self.is_trying = False
                if self.link is not None:
                    delay = BACK_OFF
                    self.link = None
                    self.how = "reconnect"
                    attempt(self.deactivate)
                if link is not None:
                    attempt(link.close)
                    link.answer_nothing()
                # Thousands of processes should not come back in the same moment.
                time.sleep(delay * (0.75 + os.urandom(1)[0] / 512))
                delay = min(delay * 2, BACK_OFF_MOST)
                self.hello = self.describe()
        except BaseException:
            pass  # An exception of a raw thread would be printed.

    def serve(self, link):
        link.request("dbgproxy/hello", self.hello)
        while True:
            message = link.receive()
            if message.get("type") == "response" and message.get("command") == "dbgproxy/hello":
                break
        if message.get("success") is not True:
            raise ValueError("the daemon does not want us")
        self.link = link
        answer = message.get("body") or {}
        if answer.get("session") not in (None, self.session):
            self.session = answer["session"]
            self._export()
        self.is_trying = False
        self.monitor = None
        self.interval = attempt(monitor_interval, answer) if self.parts else None
        api = sys.modules.get(__package__ + "._api")
        if api is not None:
            attempt(api._announce, self, link)
        self.on_answer(answer.get("activate") is True)
        looks = LOOKS
        look_at = monitor_at = time.monotonic()
        while True:
            now = time.monotonic()
            if self.unnamed and looks and now >= look_at:
                if looks < LOOKS:
                    self.report()
                look_at = now + LOOK_AGAIN * 2 ** (LOOKS - looks)
                looks -= 1
            if self.interval and now >= monitor_at:
                # What goes wrong there is tried again, but not at once.
                wait = attempt(self.watch, link)
                monitor_at = time.monotonic() + (self.interval if wait is None else wait)
            waits = [look_at] if self.unnamed and looks else []
            if self.interval:
                waits.append(monitor_at)
            message = link.receive(max(min(waits) - time.monotonic(), 0.0001) if waits else None)
            if message is None:
                continue
            if message.get("type") == "request":
                self.on_request(link, message)
            elif message.get("type") == "response":
                link.on_response(message)

    def on_answer(self, activate):
        try:
            self.tickets.pop()
        except IndexError:
            if activate:
                self.activate_here()
        else:
            self.activate_first = activate
            self.answered.release()

    def on_request(self, link, request):
        answers = []

        def answer(success, message=None):
            if not answers:
                answers.append(success)
                link.respond(request, success, message)

        handler = self.handlers.get(request.get("command"))
        if handler is None:
            return answer(False, "the agent knows no request %s" % (request.get("command"),))
        try:
            handler(answer)
            answer(True)
        except Exception as error:
            answer(False, "%s" % (error or type(error).__name__,))

    # ---- what the daemon asks ---------------------------------------------------------------------------------

    def activate(self, answer=lambda success: None):
        """Loads the debugger and connects it to the daemon; returns when it has been configured."""
        with self.busy:
            from . import _activate
        # What starts threads or processes for the debugger in the agent's thread does not inherit its mask.
        in_thread = _thread.get_ident() == self.thread
        if in_thread:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        try:
            with self.busy:
                _activate.activate(self, lambda: answer(True))
        except BaseException:
            _activate.deactivate()
            raise
        finally:
            if in_thread:
                block_signals()

    def activate_here(self):
        """The same, where there is no request to answer."""
        try:
            self.activate()
        except Exception as error:
            self.tell("dbgproxy/notActivated", {"message": "%s" % (error or type(error).__name__,)})

    def deactivate(self, answer=None):
        """Takes the debugger out, if it is in."""
        activate = sys.modules.get(__package__ + "._activate")
        if activate is not None:
            activate.deactivate()

    # ---- what the agent tells ---------------------------------------------------------------------------------

    def watch(self, link):
        """Lets the monitor look, if there is anything to see; gives the seconds until it is to look again."""
        if self.monitor is None:
            if not ("tasks" in self.parts and "asyncio.tasks" in sys.modules or has_locks()):
                return self.interval
            with self.busy:
                from . import _monitor
            self.monitor = _monitor.Monitor(self.parts, self.interval)
        return self.monitor.turn(lambda body: attempt(link.event, "dbgproxy/monitor", body))

    def watch_last(self):
        """Lets the monitor look once more, at the end of the program: what is held now, nobody will give back."""
        link = self.link
        if link is None or not self.interval or self.monitor is None and not has_locks():
            return
        from . import _monitor

        monitor = self.monitor or _monitor.Monitor(self.parts, self.interval)
        monitor.tell_last(lambda body: link.event("dbgproxy/monitor", body))

    def tell(self, event, body):
        """Sends an event, unless that would take time; then it is lost."""
        link = self.link
        if link is not None:
            attempt(link.event, event, body)

    def ask(self, command, arguments, answered, link=None):
        """Sends a request. `answered` is called with the response, in the agent's thread, or with None, maybe twice."""
        try:
            (link or self.link).request(command, arguments, answered)
        except Exception:
            answered(None)

    def is_to_be_named(self):
        """multiprocessing and pytest-xdist name their children when they already run, -m knows its script later."""
        return (
            self.hello["script"] in ("-m", "-c")
            or sys.argv[1:2] == ["--multiprocessing-fork"]
            or self.forked and self.hello["name"] is None
        )

    def report(self):
        """Tells the daemon of what has changed since the hello, if it has."""
        fresh = {"name": attempt(process_name, False), "script": attempt(script), "environment": attempt(environment)}
        if fresh["name"] == "MainProcess":
            fresh["name"] = self.hello["name"]
        if any(self.hello[key] != value for key, value in fresh.items()):
            self.unnamed = False
            self.hello.update(fresh)
            self.tell("dbgproxy/report", fresh)


def block_signals():
    """The program's signals are for its own threads, whose system calls they are to interrupt; returns what was."""
    faults = {getattr(_signal, name, None) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")}
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - faults)


# ---- what it watches ---------------------------------------------------------------------------------------------


def monitored_parts():
    """What the program's environment wants to be monitored: tasks, and what it names beside them; or nothing."""
    parts = {part.strip() for part in os.environ.get("DBGPROXY_MONITOR", "tasks").split(",")}
    return frozenset() if "off" in parts else frozenset(parts & {"locks", "tasks+"} | {"tasks"})


def has_locks():
    """Have locks of the program been monitored?"""
    locks = sys.modules.get(__package__ + "._records")
    return locks is not None and locks.is_used


def monitor_interval(answer):
    """The seconds between two samples, if the daemon wants any."""
    interval = float(answer.get("monitor") or 0)
    return min(max(interval, INTERVAL_LEAST), INTERVAL_MOST) if interval > 0 else None


# ---- forks and the end -------------------------------------------------------------------------------------------

#: What the hooks keep from one to the next: has the fork got the agent's lock, does the agent begin in a later hook
#: of its own, and which entries of ours are among the filters of warnings.
_forking = {"locked": False, "late": False, "hushed": (), "finalized": False}


def _before_fork():
    attempt(_prepare_fork)


def _prepare_fork():
    until = time.monotonic() + FORK_PATIENCE_LOADING
    _forking["locked"] = agent.busy.acquire(True, FORK_PATIENCE)
    while not _forking["locked"] and agent.loading and time.monotonic() < until:
        _forking["locked"] = agent.busy.acquire(True, PATIENCE)
    if not _forking["late"] and "threading" in sys.modules:
        # Hooks run in the order in which they were registered. `threading` must have found itself in the child
        # before the agent, which may have to load the debugger there, so from now on it begins in a later hook.
        _forking["late"] = True
        os.register_at_fork(after_in_child=_begin_in_child)
    if sys.version_info >= (3, 12):
        _hush_fork_warning()


def _after_fork_in_parent():
    if _forking["locked"]:
        _forking["locked"] = False
        agent.busy.release()


def _after_fork_in_child():
    attempt(_settle_in_child)
    if not _forking["late"]:
        _begin_in_child()


def _settle_in_child():
    """The child has a copy of its parent's agent, but not its thread, and not its session."""
    global agent
    former = agent
    agent = None
    _forking["locked"] = False
    link = former.link
    if link is not None:
        attempt(link.close)  # The daemon should see the parent's end when it is the parent's.
    agent = Agent(former.address, uuid4(), former.session, "fork")
    if link is None:
        agent.patience = 0
    attempt(_tell_ends_of_children)


def _tell_ends_of_children():
    """A child that multiprocessing forks ends without `atexit`, but with what it calls finalizers."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _forking["finalized"]:
        _forking["finalized"] = True  # The children of this one know it from here.
        util.register_after_fork(_at_exit, lambda end: util.Finalize(None, end, exitpriority=FINALIZER))


def _begin_in_child():
    try:
        activate = sys.modules.get(__package__ + "._activate")
        if activate is not None:
            activate.disown()
        agent.begin()
    except Exception:
        pass


def _hush_fork_warning():
    """Keeps Python from warning at a fork that the process has threads, if it has none but ours.

    Its warning counts the threads of the operating system. It is suppressed by its very text, which has this
    process's pid in it, so no other is; and the filter goes away as soon as the program has threads of its own.
    """
    filters = (sys.modules.get("warnings") or sys.modules["_warnings"]).filters
    for entry in _forking["hushed"]:
        if entry in filters:
            filters.remove(entry)
    activate = sys.modules.get(__package__ + "._activate")
    _forking["hushed"] = ()
    # The debugger's threads come and go, and are hard to count.
    alone = attempt(activate.is_alone) if activate is not None else None
    if len(os.listdir("/proc/self/task")) == 2 if alone is None else alone:
        text = "This process (pid=%d) is multi-threaded, use of %s() may lead to deadlocks in the child."
        _forking["hushed"] = [
            ("ignore", text % (os.getpid(), function), DeprecationWarning, None, 0) for function in ("fork", "forkpty")
        ]
        filters[:0] = _forking["hushed"]


def _at_exit():
    if agent is not None:
        if agent.unnamed:
            attempt(agent.report)
        attempt(agent.watch_last)
        attempt(agent.tell, "dbgproxy/exiting", {"exitCode": attempt(exit_code)})


def exit_code():
    """1 if an exception ends the program. Else nobody can know: Python keeps to itself what sys.exit() was told."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    interactive = sys.flags.interactive or sys.flags.inspect or hasattr(sys, "ps1")
    return 1 if isinstance(error, Exception) and not interactive else None
