# The guard: what the daemon puts into a process that pydevd has connected to it, before anything else.
#
# It sees to it that a dead daemon never stops, breaks or silences the user's program, lets several
# breakpoints share a line, tells who the process is, and answers questions.
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
# where multiprocessing forks (os.fork() has not returned, but the process object is on the stack). A spawned child
# and a worker of a forkserver are named only after configurationDone (null or "MainProcess" until then): the report
# comes a second time by itself at that moment, before the user's main module is imported there.
# `forked` is true while the process is still inside the os.fork() that made it. `script` is sys.argv[0].
# Texts are valid Unicode, argv is at most 4,096 characters in all and then ends with "\u2026".
#
# QUESTIONS. The frameless evaluate (context "watch"), at any time after the guard is in,
#   __import__('_dbgproxy').answer(TOKEN, 'FUNCTION', ARGUMENT)
# has an empty result as well, and its response is preceded by the event
#   {"type": "event", "event": "dbgproxyAnswer", "body": {"token": TOKEN, "body": BODY}}
# TOKEN and ARGUMENT are Python literals: JSON's numbers and texts are some (but for what pydevd replaces, see above,
# and for surrogates as \u escapes), its null is None. BODY is {"error": TEXT} (one line) if the function fails. It is
#
# - stacks, None: {"threads": [{"name", "threadId", "kind", "frames": [[name, path, line], ...], "omitted"}, ...],
#   "omitted"}. Every thread of the process, the main one first, whether it runs, is stopped or blocks in C; nothing
#   is stopped for it. Then the asyncio tasks that wait (kind "task" instead of "thread"), with what they await down
#   to where a future or another task is awaited; a task that runs is the stack of its thread. `threadId` is DAP's,
#   null for tasks and threads that pydevd does not know. Frames are innermost first, with names and paths as in
#   pydevd's answers to `stackTrace`, and without those of the debugger and of the start of Python and of threads:
#   none at all may be left. `omitted` counts the frames left out of a long stack, and the threads and tasks left
#   out of a long answer.
# - evaluate, TEXT: {"result", "type"}. An expression is evaluated in the namespace of `__main__`; a statement is run
#   there, and has an empty result and type. It runs in a thread of pydevd (before configurationDone in the one that
#   waits for it), untraced: breakpoints in what it calls do not stop. What takes long holds up the next question.
# - watchdogs, None: {"watchdogs": [{"kind", "limit", "age"}, ...]}. Who ends this process, or breaks off what it does,
#   if that takes longer than `limit` seconds, and for how many seconds it counts already. It is what the libraries
#   in the process say of themselves, wherever they were told so; none of the program's own code runs for it.
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
import gc
import itertools
import os
import re
import signal
import socket
import sys
import time
import traceback
import weakref

from _pydevd_bundle.pydevd_constants import get_global_debugger

KEYS = 4096  # hit counters kept, the oldest dropped
TEXT = 4096  # characters of argv, and of each other text that has no limit of its own
RESULT = 65536  # characters of an evaluated result
STACKS = 1000  # threads and tasks in an answer; the rest is counted
STACKS_TEXT = 4 << 20  # characters in all their frames, after which the rest is counted too
FOREVER = 1e8  # seconds that a watchdog's limit is shorter than
INNERMOST, OUTERMOST = 192, 64  # frames of a longer stack; those between are counted
VARIABLES = (
    "DBGPROXY_NAME", "DBGPROXY_LABELS", "DBGPROXY_WAIT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "PYTEST_XDIST_WORKER",
    "PYTEST_CURRENT_TEST",
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
            result = process(py_db, contents, *args, **kwargs)
            attempt(watch_resumed)
            return result
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


def watch_resumed():
    """From Python 3.12 on pydevd looks for breakpoints in code that starts. This makes it look as well in a coroutine
    or generator that goes on, which may have been suspended when the breakpoint was set."""
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None or monitoring.get_tool(monitoring.DEBUGGER_ID) != "pydevd":
        return
    from _pydev_bundle._pydev_saved_modules import thread
    from _pydevd_sys_monitoring.pydevd_sys_monitoring import enable_code_tracing

    def resumed(code, offset):
        attempt(enable_code_tracing, thread.get_ident(), code, sys._getframe(1))
        return monitoring.DISABLE  # until breakpoints change

    monitoring.register_callback(monitoring.DEBUGGER_ID, monitoring.events.PY_RESUME, resumed)


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


# ---- questions -------------------------------------------------------------------------------------------------


def answer(token, function, argument=None):
    """Sends what a function says. Its evaluate must give no result of its own, hence no return value."""
    try:
        body = {"stacks": stacks, "evaluate": evaluate, "watchdogs": watchdogs}[function](argument)
    except Exception as error:
        body = {"error": said(error)}
    send("dbgproxyAnswer", {"token": token, "body": body})


def evaluate(expression):
    namespace = vars(sys.modules["__main__"])
    expression = expression.strip()
    try:
        try:
            compiled = compile(expression, "<string>", "eval", dont_inherit=True)
        except SyntaxError:
            compiled = None
        if compiled is None:
            exec(compile(expression, "<string>", "exec", dont_inherit=True), namespace)
            return {"result": "", "type": ""}
        value = eval(compiled, namespace)
        return {"result": clean(repr(value), RESULT), "type": clean(type(value).__name__)}
    except BaseException as error:  # SystemExit would end the thread of pydevd that runs this
        return {"error": said(error)}


def said(error):
    text = attempt(str, error)
    return clean(" ".join(": ".join(filter(None, (type(error).__name__, text))).split()))


def stacks(_):
    place, rows, left_out, room = places(), [], 0, STACKS_TEXT
    loops = []
    taken = {}
    tops = sys._current_frames()
    while tops:
        ident, frame = tops.popitem()
        taken[ident] = walked(frame, loops)
    del frame
    for name, thread_id, kind, stack in itertools.chain(threads(taken), waiting_tasks(loops, taken)):
        if len(rows) >= STACKS or room < 0:
            left_out += 1
            continue
        stack = without_debugger(stack, place)
        omitted = max(len(stack) - INNERMOST - OUTERMOST, 0)
        if omitted:
            del stack[INNERMOST:-OUTERMOST]
        shown = [[clean(code.co_name), place(code.co_filename), line] for code, line in stack]
        room -= sum(len(function) + len(path) for function, path, _ in shown)
        rows.append({"name": name, "threadId": thread_id, "kind": kind, "frames": shown, "omitted": omitted})
    return {"threads": rows, "omitted": left_out}


def walked(frame, loops):
    """The codes and lines of a stack. The frames themselves would keep alive what their functions have let go."""
    stack = []
    while frame is not None:
        stack.append(here(frame))
        if frame.f_code.co_name == "run_forever" and not REGISTRIES:
            loops.append(frame.f_locals.get("self"))
        frame = frame.f_back
    return stack


def here(frame):
    return frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno


def threads(taken):
    from _pydev_bundle._pydev_saved_modules import threading
    from _pydevd_bundle._debug_adapter.pydevd_base_schema import BaseSchema

    known = threading._active.copy()  # in one step; any stopped thread may hold its lock
    for ident in [ident for ident in known if ident in taken] + [ident for ident in taken if ident not in known]:
        # Attributes as they are stored: what a subclass makes of them is code of the user.
        thread = object.__getattribute__(known[ident], "__dict__") if ident in known else {}
        if not (thread.get("is_pydev_daemon_thread") or thread.get("pydev_do_not_trace")):
            pydevd_id = thread.get("__pydevd_id__")
            thread_id = BaseSchema._obj_id_to_dap_id.get(pydevd_id) if pydevd_id is not None else None
            name = attempt(clean, thread.get("_name")) or "thread %d" % ident
            yield name, thread_id, "thread", taken[ident]


# What runs a loop.
RUNNING = ("run_forever", "run_until_complete")
# In which registries asyncio keeps its tasks: until 3.11, and until 3.13. After that only a loop knows its own.
REGISTRIES = ("_all_tasks", "_scheduled_tasks", "_eager_tasks") if sys.version_info < (3, 14) else ()


def waiting_tasks(loops, taken):
    running = {ident for ident in taken if any(code.co_name in RUNNING for code, _ in taken[ident])}
    asyncio = sys.modules.get("asyncio.tasks")
    tasks = {}
    for name in REGISTRIES:
        registry = getattr(asyncio, name, ())
        # The set of weak references is copied in one step; iterating over them fails where tasks come and go.
        for task in list(getattr(registry, "data", registry)):
            task = task() if isinstance(task, weakref.ref) else task
            tasks[id(task)] = task
    for loop in loops if asyncio is not None else ():
        for task in attempt(asyncio.all_tasks, loop) or ():
            tasks[id(task)] = task
    while tasks:
        task = tasks.popitem()[1]
        row = attempt(waiting_task, task, running)
        if row is not None:
            yield row


def waiting_task(task, running):
    if task is None or task.done():
        return None
    # A fork takes along the tasks of a loop whose thread it leaves behind; another thread may have got its number.
    ident = getattr(task.get_loop(), "_thread_id", None)
    if ident is not None and ident not in running:
        return None
    coroutine = task.get_coro()
    if getattr(coroutine, "cr_running", False) or getattr(coroutine, "gi_running", False):
        return None
    return clean(task.get_name()), None, "task", awaited(coroutine)


# By the names of types, because Cython has types of its own: the frame of each, and what it waits for.
AWAITING = {
    "coroutine": ("cr_frame", "cr_await"), "generator": ("gi_frame", "gi_yieldfrom"),
    "async_generator": ("ag_frame", "ag_await"),
}
# What stands between two of them and has no attribute that leads to the next.
BETWEEN = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable")


def awaited(coroutine):
    """The codes and lines of a chain of coroutines, the innermost first."""
    chain = []
    while coroutine is not None:
        kind = type(coroutine).__name__
        if kind in AWAITING:
            frame, coroutine = (getattr(coroutine, attribute) for attribute in AWAITING[kind])
            if frame is not None:
                chain.append(here(frame))
        elif kind in BETWEEN:
            inner = (one for one in gc.get_referents(coroutine) if type(one).__name__ in (*AWAITING, *BETWEEN))
            coroutine = next(inner, None)
        else:
            break
    chain.reverse()
    return chain


def places():
    """A function from code's file names to paths as pydevd gives them, or None for the debugger's own files."""
    from _pydevd_bundle import pydevd_constants
    import pydevd_file_utils

    def absolute(path):
        return pydevd_file_utils.get_abs_path_real_path_and_base_from_file(path)[0]

    pydevd = os.path.join(os.path.dirname(os.path.dirname(absolute(pydevd_constants.__file__))), "")
    debuggers = [pydevd + "pydev", pydevd + "_pydev"]  # where it is not part of debugpy, others are beside it
    if getattr(sys.modules.get("debugpy"), "__file__", None):
        debuggers.append(os.path.join(os.path.dirname(absolute(sys.modules["debugpy"].__file__)), ""))
    if getattr(sys.modules.get("dbgproxy"), "__file__", None):
        agent = os.path.dirname(absolute(sys.modules["dbgproxy"].__file__))
        debuggers += [os.path.join(agent, ""), os.path.join(os.path.dirname(agent), "sitecustomize.py")]
    debuggers = tuple(debuggers)

    @functools.lru_cache(maxsize=None)
    def place(filename):
        if filename.startswith("<"):
            return None if filename == "<frozen dbgproxy>" else clean(filename)
        path = absolute(filename)
        if path.startswith(debuggers):
            return None
        return clean(pydevd_file_utils.map_file_to_client(path)[0])

    return place


# What a thread does inside of these functions of pydevd it does for the debugger.
DEBUGGING = (
    "do_wait_suspend", "_do_wait_suspend", "process_internal_commands", "settrace", "settrace_forked",
    "wait_for_ready_to_run", "block_until_configuration_done",
)


def without_debugger(stack, place):
    import threading

    kept = []
    for code, line in stack:
        if place(code.co_filename) is not None:
            kept.append((code, line))
        elif code.co_name in DEBUGGING:
            kept.clear()
    starts = [function.__code__ for function in (threading.Thread._bootstrap, threading.Thread._bootstrap_inner)]
    runpy = ("<frozen runpy>", getattr(sys.modules.get("runpy"), "__file__", None))
    while kept and (kept[-1][0] in starts or kept[-1][0].co_filename in runpy):
        kept.pop()
    return kept


# ---- watchdogs -------------------------------------------------------------------------------------------------


def watchdogs(_):
    found = []
    for look in (gunicorn, uvicorn, celery, pytest_signal, pytest_thread, torch):
        attempt(lambda: found.extend((kind, float(limit), float(age)) for kind, limit, age in look() if limit))
    return {
        "watchdogs": [
            {"kind": kind, "limit": limit, "age": age}
            for kind, limit, age in found if 0 < limit < FOREVER and 0 <= age < FOREVER
        ]
    }


def gunicorn():
    """A worker writes down when it was last alive. Where the agent does so for one that is stopped, nobody ends it."""
    for worker in running("gunicorn.workers.base", "init_process"):
        if not is_kept_alive():
            worker = worker["self"]
            last, now = worker.tmp.last_update(), time.monotonic()
            # By the calendar, until release 20.
            age = now - last if last <= now else time.time() - last
            yield "gunicorn", worker.timeout * 2, age  # It is told half of it.


def uvicorn():
    """A worker of several has a thread that answers its master, with or without the agent's help."""
    for worker in running("uvicorn._subprocess", "subprocess_started"):
        answers = any(named(thread.get("_target")) == ANSWERING for thread in all_threads())
        if answers and not is_kept_alive():
            yield "uvicorn", getattr(worker["config"], "timeout_worker_healthcheck", 5), 0


def celery():
    """The task's limits, or those that the pool has for all. The pool is in the frames that have forked the worker."""
    for pool in running("billiard.pool", "_create_worker_process"):
        for task in running("celery.app.trace", "trace_task"):
            if "time_start" in task:
                hard, soft = task["task_request"].timelimit or (None, None)
                age = time.monotonic() - task["time_start"]
                yield "celery", hard or task["task"].time_limit or pool["self"].timeout, age
                yield "celerySoft", soft or task["task"].soft_time_limit or pool["self"].soft_timeout, age
            return


def pytest_signal():
    """pytest-timeout's alarm for the test that runs."""
    handler, left = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    if left and getattr(handler, "__module__", None) == "pytest_timeout":
        settings = dict(zip(handler.__code__.co_freevars, handler.__closure__))["settings"].cell_contents
        if not sees_debugger(settings):
            yield "pytestSignal", settings.timeout, max(settings.timeout - left, 0)


def pytest_thread():
    """pytest-timeout's thread for the test that runs."""
    for thread in all_threads():
        if named(thread.get("function")) == TIMING and not thread["finished"].is_set():
            if not sees_debugger(thread["args"][1]):
                yield "pytestThread", thread["interval"], attempt(thread_age, thread["_native_id"]) or 0


def sees_debugger(settings):
    """pytest-timeout lets a test be that a debugger is in. Its older releases see none from Python 3.12 on."""
    module = sys.modules["pytest_timeout"]
    looks = not hasattr(sys, "monitoring") or "monitoring" in module.is_debugging.__code__.co_names
    return (looks or module.SUPPRESS_TIMEOUT) and not getattr(settings, "disable_debugger_detection", False)


def torch():
    """Its heartbeat; that counts anew all the time."""
    if os.environ.get("TORCH_NCCL_ENABLE_MONITORING", "1").lower() not in ("0", "f", "false", "n", "no"):
        yield "torch", float(os.environ.get("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", 0)), 0


#: What the thread of uvicorn's worker runs that answers its master.
ANSWERING = ("uvicorn.supervisors.multiprocess", "Process.always_pong")
#: What that of pytest-timeout runs.
TIMING = ("pytest_timeout", "timeout_timer")


def is_kept_alive():
    """Does the agent let a worker that is stopped appear alive?"""
    return hasattr(type(get_global_debugger()).set_suspend, "agent")


def running(module, function):
    """The variables of the frames of the main thread that run a function of a module, which is no module of the user."""
    if module in sys.modules:
        from _pydev_bundle._pydev_saved_modules import threading

        frame = sys._current_frames().get(threading.main_thread().ident)
        while frame is not None:
            if frame.f_code.co_name == function and frame.f_globals.get("__name__") == module:
                yield frame.f_locals
            frame = frame.f_back


def all_threads():
    """The attributes of all threads as they are stored, see `threads`."""
    from _pydev_bundle._pydev_saved_modules import threading

    return [object.__getattribute__(thread, "__dict__") for thread in threading._active.copy().values()]


def named(function):
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def thread_age(native_id):
    """For how many seconds a thread runs, as the kernel has it."""
    with open("/proc/self/task/%d/stat" % native_id, "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


# ---- the report ------------------------------------------------------------------------------------------------


def tell():
    """Sends the report. Its evaluate must give no result of its own, hence no return value."""
    parts = (
        ("identity", identity), ("argv", argv), ("script", script), ("cwd", cwd), ("name", name), ("helper", helper),
        ("forked", lambda: bool(forking())), ("debugpy", debugpy_version),
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
    if forking():
        launch = frames("_launch")
        return clean(launch[0].f_locals["process_obj"].name) if launch else None
    process = sys.modules.get("multiprocessing.process")
    return clean(process.current_process().name) if process is not None else None


def tell_name():
    """Sends the report again when multiprocessing names this process, if it is about to."""
    spawned = sys.argv[1:2] == ["--multiprocessing-fork"]
    by_forkserver = any(frame.f_globals.get("__name__") == "multiprocessing.forkserver" for frame in frames("main"))
    # Whatever a worker itself forks is named otherwise, or not at all.
    if not spawned and not (by_forkserver and forking() and not frames("_serve_one")):
        return
    from multiprocessing.process import BaseProcess

    stock = vars(BaseProcess)["name"]
    if hasattr(stock.fset, "dbgproxy"):
        return

    def set_name(process, name):
        BaseProcess.name = stock
        stock.fset(process, name)
        attempt(tell)

    set_name.dbgproxy = True
    BaseProcess.name = property(stock.fget, set_name, stock.fdel, stock.__doc__)


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


def forking():
    """The frames of os.fork() in a child, which is being handed to the debugger: by pydevd, or by dbgproxy's agent."""
    return frames("settrace_forked") or frames("_begin_in_child")


def frames(function):
    """The frames of this thread that run a function of that name."""
    found, frame = [], sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == function:
            found.append(frame)
        frame = frame.f_back
    return found


def clean(text, limit=TEXT):
    """Undecodable bytes have no place in JSON."""
    text = str.encode(text, "utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def attempt(function, *args):
    try:
        return function(*args)
    except Exception:
        return None


# The process that was started with this command line: forks inherit the module, or are in os.fork() now.
started_as = globals().get("started_as", 0 if forking() else os.getpid())

if counted_for is not get_global_debugger():
    counted_for = get_global_debugger()
    counters.clear()
attempt(guard)
attempt(release_late)
attempt(tell_name)
attempt(tell)
