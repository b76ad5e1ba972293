# The guard: what the daemon puts into a process that pydevd has connected to it, before anything else.
#
# It sees to it that a dead daemon never stops, breaks or silences the user's program, lets several
# breakpoints share a line, and tells who the process is.
#
# SENDING. One frameless request, which works before `initialize` (S is this whole text as a JSON string,
# which is also a Python literal, because this file is ASCII):
#
#   evaluate {"context": "watch", "expression":
#     "__import__('builtins').exec(compile(S, '<frozen dbgproxy>', 'exec'), __import__('sys').modules
#      .setdefault('_dbgproxy', type(__import__('sys'))('_dbgproxy')).__dict__)"}       (on one line)
#
# - the file name makes pydevd leave these frames alone: no stepping into them, no exception stops in them;
# - the namespace is the module that breakpoint conditions import; a second run keeps its state;
# - pydevd replaces the word LINE between two at signs by a newline in any expression: it must not occur in here;
# - context "watch", not "repl": "repl" would redirect sys.stdout while it runs.
#
# `configurationDone` must wait for its response; everything else may be sent along in the same write. The guard runs
# in the thread that waits for configurationDone, and that sleeps 0.1 s first: released early, it would leave the
# guard to another thread, which races with the user's code and does not see from its stack who forked it.
#
# READING. The response of `evaluate` has an empty `result` (debugpy before 1.8.22 has none for a frameless one)
# and says only that the guard is in, if `success` is true. The report is an event that precedes it:
#
#   {"type": "event", "event": "dbgproxyReport", "body": {"identity", "argv", "script", "cwd", "name", "helper",
#    "forked", "debugpy", "python", "executable", "environment", "pid", "ppid"}}
#
# Every key is always there, null if not known. It may be asked for again at any time after, with the frameless
# evaluate `__import__('_dbgproxy').tell()`. What is known when: pid, identity, argv, cwd at once. `name` at once
# where multiprocessing forks (os.fork() has not returned, but the process object is on the stack); not before
# user code runs in a spawned child or a worker of a forkserver (null: neither is named yet), so ask again then.
# `forked` is true while the process is still inside the os.fork() that made it. `script` is sys.argv[0].
# Texts are valid Unicode, argv is at most 4,096 characters in all and then ends with "\u2026".
#
# OTHER EVENTS, from conditions of the form
#   __import__("_dbgproxy").hit([[key, condition, hitCondition, logMessage], ...], globals(), locals())
# `dbgproxyHit` {"keys": [...], "threadId": N} precedes the `stopped` of that thread, and `output` is as pydevd's.
#
# LIMITS. Before the guard is in, nothing is guarded. For a child that runs a script or module that means: if the daemon
# dies after the child was started with pydevd's arguments, it ends with "Could not connect"; if it dies after
# accepting and before the guard, the child waits for ever. `-c` children (so all of multiprocessing) and forks have the
# guard from birth and run on in both cases. Where warnings are shown, Python 3.12 and later say at os.fork() that the
# process has several threads, for as long as pydevd's are there.

import functools
import itertools
import os
import re
import socket
import sys
import traceback

from _pydevd_bundle.pydevd_constants import get_global_debugger

KEYS = 4096  # hit counters kept, the oldest dropped
TEXT = 4096  # characters of argv, of the directory and of each variable
VARIABLES = (
    "DBGPROXY_NAME", "DBGPROXY_LABELS", "DBGPROXY_WAIT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "PYTEST_XDIST_WORKER",
)

# ---- release on loss -------------------------------------------------------------------------------------------

# A text of its own, because it also travels in the command line of `-c` children: they can lose the daemon before
# it has said a word to them. It hooks pydevd's class and functions, not the debugger object, so that fork children
# and later connections have it too. `once` makes a connection that fails in the next settrace() no error.
LINK = r'''
def link(pydevd, once=False):
    import io, socket
    from _pydev_bundle import pydev_log
    current = pydevd["get_global_debugger"]
    PyDB = pydevd["PyDB"]
    dispose, connect = PyDB.dispose_and_kill_all_pydevd_threads, pydevd["start_client"]
    forked, settrace = pydevd["settrace_forked"], pydevd["settrace"]

    def forget(function, *args, **kwargs):
        # A refused connection leaves a half-made debugger behind; the program goes on without it.
        try:
            return function(*args, **kwargs)
        except Exception:
            debugger = current()
            if debugger is not None:
                debugger.dispose_and_kill_all_pydevd_threads(wait=False)

    def first_settrace(*args, **kwargs):
        pydevd["settrace"] = settrace
        return forget(settrace, *args, **kwargs)

    if once:
        pydevd["settrace"] = first_settrace
    if getattr(dispose, "dbgproxy", False):
        return

    def release(self, *args, **kwargs):
        # Whoever waits for configurationDone goes on, untraced.
        try:
            for name in ("start_auxiliary_daemon_threads", "patch_threads", "enable_tracing",
                         "set_tracing_for_untraced_contexts", "set_trace_for_frame_and_parents"):
                setattr(self, name, lambda *args, **kwargs: None)
            self.ready_to_run = True
            self._on_configuration_done_event.set()
        except Exception:
            pass
        try:
            return dispose(self, *args, **kwargs)
        finally:
            # A thread that was being started meanwhile is not among those just ended, and would keep the program
            # from exiting for ever.
            try:
                for thread in list(self.created_pydb_daemon_threads):
                    thread.do_kill_pydev_thread()
            except Exception:
                pass

    def start_client(host, port):
        # pydevd prints a stack trace for a refused connection, whether or not its caller copes.
        with pydev_log.log_context(0, io.StringIO()):
            sock = connect(host, port)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except Exception:
            pass
        return sock

    def settrace_forked(*args, **kwargs):
        # The parent's debugger is dead in the child: it must not stop it, nor hold the parent's connection open.
        try:
            parent = current()
            if parent is not None:
                parent.pydb_disposed = True
                parent.writer.sock.close()
        except Exception:
            pass
        return forget(forked, *args, **kwargs)

    release.dbgproxy = True
    PyDB.dispose_and_kill_all_pydevd_threads = release
    pydevd["start_client"] = start_client
    pydevd["settrace_forked"] = settrace_forked
'''


def guard():
    """Hooks whatever is not hooked yet."""
    debugger = get_global_debugger()
    # A child's pydevd was started as the main program: what is called "pydevd" may be another copy.
    spaces = [vars(sys.modules["pydevd"])] if "pydevd" in sys.modules else []
    if debugger is not None and type(debugger).connect.__globals__ not in spaces:
        spaces.append(type(debugger).connect.__globals__)
    exec(compile(LINK, "<frozen dbgproxy>", "exec"), globals())
    for space in spaces:
        attempt(link, space)
    attempt(guard_children)
    attempt(guard_wait)
    attempt(guard_requests, debugger)
    attempt(lambda: debugger.writer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))


def guard_children():
    from _pydev_bundle import pydev_monkey

    patching, python_c = pydev_monkey._get_apply_arg_patching, pydev_monkey._get_python_c_args
    if hasattr(patching, "dbgproxy"):
        return

    def apply_arg_patching():
        return linked() and patching()

    def python_c_args(*args, **kwargs):
        code = python_c(*args, **kwargs)
        here = "import pydevd; "
        more = here + "exec(compile(%r, '<frozen dbgproxy>', 'exec'), {'pydevd': vars(pydevd)}); " % (
            LINK + "link(pydevd, once=True)\n",
        )
        if isinstance(code, bytes):
            here, more = here.encode(), more.encode()
        return code.replace(here, more, 1)

    apply_arg_patching.dbgproxy = True
    pydev_monkey._get_apply_arg_patching = apply_arg_patching
    pydev_monkey._get_python_c_args = python_c_args


def guard_wait():
    """debugpy.wait_for_client() after a loss returns, as it does when the loss comes while it waits."""
    api = sys.modules.get("debugpy.server.api")
    waiter = type(api.wait_for_client) if api is not None else None
    if waiter is None or hasattr(waiter.__call__, "dbgproxy"):
        return
    wait = waiter.__call__

    def call(self):
        if get_global_debugger() is not None:
            return wait(self)

    call.dbgproxy = True
    waiter.__call__ = call


def guard_requests(debugger):
    """A request that pydevd cannot carry out is refused: left alone, pydevd would end the whole debugging."""
    import json
    from _pydevd_bundle.pydevd_net_command import NetCommand

    process = debugger.reader.process_net_command_json
    if hasattr(process, "dbgproxy"):
        return

    def process_net_command_json(py_db, contents, *args, **kwargs):
        try:
            return process(py_db, contents, *args, **kwargs)
        except Exception as error:
            request = json.loads(contents)
            why = "%s: %s" % (type(error).__name__, clean(str(error)) or "the arguments are not as they should be")
            message = {
                "type": "response", "request_seq": request["seq"], "command": request["command"],
                "success": False, "message": why,
            }
            py_db.writer.add_command(NetCommand(-1, 0, message, is_json=True))

    process_net_command_json.dbgproxy = True
    debugger.reader.process_net_command_json = process_net_command_json


def release_late():
    """The daemon may be dead already: pydevd runs this some 0.1 s after it has come, and disposes meanwhile."""
    for frame in frames("process_internal_commands"):
        debugger = frame.f_locals["self"]
        if debugger.pydb_disposed:
            debugger.dispose_and_kill_all_pydevd_threads(wait=False)


def linked():
    """Is the daemon there? pydevd itself notices its death a second late, and children are started meanwhile."""
    try:
        debugger = get_global_debugger()
        if debugger is None or debugger.pydb_disposed:
            return False
        sock = debugger.writer.sock
        if hasattr(socket, "TCP_INFO"):
            try:
                return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1  # TCP_ESTABLISHED
            except OSError:
                pass  # not this kernel
        if not hasattr(socket, "MSG_DONTWAIT"):
            import select

            if not select.select([sock], [], [], 0)[0]:
                return True
        return sock.recv(1, socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)) != b""
    except BlockingIOError:
        return True
    except Exception:
        return False


# ---- breakpoints -----------------------------------------------------------------------------------------------

counters = globals().get("counters", {})  # no lock: a fork could inherit it held
counted_for = globals().get("counted_for")


def hit(parts, globals, locals):
    """Does any of the breakpoints that share a line hold in this frame?"""
    keys = []
    for key, condition, hit_condition, log_message in parts:
        if not holds(key, condition, hit_condition, globals, locals):
            continue
        if log_message:
            send("output", {"category": "stdout", "output": logged(log_message, globals, locals) + os.linesep})
        else:
            keys.append(key)
    if not keys:
        return False
    body = {"keys": keys}
    try:
        from _pydevd_bundle._debug_adapter.pydevd_base_schema import BaseSchema
        from _pydevd_bundle.pydevd_constants import get_current_thread_id
        from _pydev_bundle._pydev_saved_modules import threading

        body["threadId"] = BaseSchema._translate_id_to_dap(get_current_thread_id(threading.current_thread()))
    except Exception:
        pass
    return send("dbgproxyHit", body)


def holds(key, condition, hit_condition, globals, locals):
    try:
        # As in pydevd, the two are alternatives, and every pass counts.
        if hit_condition:
            if counted(key, hit_condition, globals, locals):
                return True
            if not condition:
                return False
        return bool(eval(code(condition), globals, locals)) if condition else True
    except Exception as error:
        debugger = get_global_debugger()
        if not isinstance(error, getattr(debugger, "skip_print_breakpoint_exception", NameError)):
            lines = traceback.format_exception(type(error), error, error.__traceback__.tb_next)
            text = "breakpoint condition failed: %s\n%s" % (condition, "".join(lines))
            send("output", {"category": "important", "output": text})
        return not isinstance(error, getattr(debugger, "skip_suspend_on_breakpoint_exception", BaseException))


def counted(key, hit_condition, globals, locals):
    count = next(counters.setdefault(key, itertools.count(1)))
    if len(counters) > KEYS:
        attempt(lambda: counters.pop(next(iter(counters)), None))
    text = hit_condition.strip()
    try:
        return count == int(text)
    except ValueError:
        pass
    if text.startswith("%"):
        text = "@HIT@ %s == 0" % text
    elif text.startswith(("==", ">", "<")):
        text = "@HIT@ " + text
    try:
        return bool(eval(text.replace("@HIT@", str(count)), globals, locals))
    except Exception:
        return False


def logged(message, globals, locals):
    try:
        from _pydevd_bundle.pydevd_utils import convert_dap_log_message_to_expression

        return clean(str(eval(code(convert_dap_log_message_to_expression(message)), globals, locals)))
    except Exception as error:
        return clean(attempt(str, error) or type(error).__name__)


@functools.lru_cache(maxsize=256)
def code(text):
    return compile(text.lstrip(" \t"), "<string>", "eval")


def send(event, body):
    """Sends an event behind whatever pydevd has sent so far; False if nobody is there any more."""
    try:
        from _pydevd_bundle.pydevd_net_command import NetCommand

        message = {"type": "event", "event": event, "body": body}
        get_global_debugger().writer.add_command(NetCommand(-1, 0, message, is_json=True))
        return True
    except Exception:
        return False


# ---- the report ------------------------------------------------------------------------------------------------


def tell():
    """Sends the report. Its evaluate must give no result of its own, hence no return value."""
    parts = (
        ("identity", identity), ("argv", argv), ("script", script), ("cwd", cwd), ("name", name), ("helper", helper),
        ("forked", lambda: bool(frames("settrace_forked"))), ("debugpy", debugpy_version),
        ("python", lambda: sys.version.split()[0]), ("executable", lambda: clean(sys.executable)),
        ("environment", environment), ("pid", os.getpid), ("ppid", os.getppid),
    )
    send("dbgproxyReport", {key: attempt(value) for key, value in parts})


def identity():
    # The start time tells a reused pid apart, the rest survives an exec and is one machine's and one container's.
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    return "%s/%s/%d/%d" % (boot, namespace, os.getpid(), ticks)


def command():
    """The command as the user or his program wrote it, without what pydevd put into it."""
    words = getattr(sys, "orig_argv", None)
    if words is None:
        try:
            with open("/proc/self/cmdline", "rb") as file:
                words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
        except OSError:
            words = [sys.executable] + sys.argv
    words = list(words)
    for i, word in enumerate(words):
        if os.path.basename(word) == "pydevd.py" and "--file" in words[i:]:
            file = words.index("--file", i)
            module = ["-m"] if "--module" in words[i:file] else []
            return words[:i] + module + words[file + 1 :]
        if "import pydevd; " in word:
            words[i] = re.sub(
                r"import sys; sys\.path\.insert\(0, r'[^']*'\); import pydevd; .*?__setup_holder__=\{.*?\}\); ",
                "", word, count=1, flags=re.DOTALL,
            )
            return words
    return words


def argv():
    left, words = TEXT, []
    for word in command():
        word = clean(word)
        if len(word) > left:
            return words + [word[: max(left - 1, 0)] + "\u2026"]
        left -= len(word)
        words.append(word)
    return words


def script():
    return clean(sys.argv[0])


def cwd():
    return clean(os.getcwd())


def name():
    # In os.fork() the parent's name is still in force; the child's own is with the code that forks.
    if frames("settrace_forked"):
        launch = frames("_launch")
        return clean(launch[0].f_locals["process_obj"].name) if launch else None
    process = sys.modules.get("multiprocessing.process")
    return clean(process.current_process().name) if process is not None else None


def helper():
    # A worker that the forkserver forked has the forkserver's command line, and a parent process or a fork behind it.
    process = sys.modules.get("multiprocessing.process")
    parent = getattr(process, "parent_process", lambda: None)()
    if parent is not None or started_as != os.getpid():
        return None
    found = re.search(r"from [\w.]*\b(resource_tracker|semaphore_tracker|forkserver) import main", " ".join(command()))
    return found.group(1) if found else None


def debugpy_version():
    from importlib import import_module

    return clean(import_module("debugpy._version").get_versions()["version"])


def environment():
    return {key: clean(os.environ[key]) for key in VARIABLES if key in os.environ}


def frames(function):
    """The frames of this thread that run a function of that name."""
    found, frame = [], sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == function:
            found.append(frame)
        frame = frame.f_back
    return found


def clean(text):
    """Undecodable bytes have no place in JSON."""
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= TEXT else text[: TEXT - 1] + "\u2026"


def attempt(function, *args):
    try:
        return function(*args)
    except Exception:
        return None


# The process that was started with this command line: forks inherit the module, or are in os.fork() now.
started_as = globals().get("started_as", 0 if frames("settrace_forked") else os.getpid())

if counted_for is not get_global_debugger():
    counted_for = get_global_debugger()
    counters.clear()
attempt(guard)
attempt(release_late)
attempt(tell)
