"""The agent of a process: it tells the daemon who the process is, then sleeps until it is asked for something.

It is imported at the start of every Python process, so it must cost next to nothing: it imports only what the
interpreter has loaded or built in, and two small C modules. It knows nothing of debugpy: what has to do with
debugging is in `_activate`, which is loaded when somebody wants to debug.

Whatever happens here, the program must not notice. So the agent's one thread is a raw one, which `threading` does
not know; errors end in another try to reach the daemon; and nothing is ever printed.

The wire is DAP's framing and envelopes (`Content-Length: N`, an empty line, JSON). The first message is the agent's
request `dbgproxy/hello`; after that the daemon asks (see `Agent.handlers`) and the agent tells (see `Agent.tell`).
"""

import _signal
import _thread
import atexit
import os
import sys
import time


def _import_quietly(name):
    """Imports a C module and leaves `sys.modules` as it was, for the program to import it when it wants to."""
    known = name in sys.modules
    module = __import__(name)
    if not known:
        del sys.modules[name]
    return module


_json = _import_quietly("_json")
_socket = _import_quietly("_socket")

PROTOCOL = 1
#: Seconds that the program waits at its start, and in a child at a fork, for the daemon's answer; as long as for the
#: connection if it is told to wait.
PATIENCE = 0.05
#: Seconds until a daemon that cannot be reached is tried again: the first time, and at most; it doubles in between.
BACK_OFF, BACK_OFF_MOST = 0.25, 15.0
#: Seconds that a connection may take to be made.
CONNECT = 10.0
#: Seconds that a fork waits at most for the agent to come to a point where it may be copied; and while it loads the
#: debugger, when a child would have modules that are half loaded, for ever.
FORK_PATIENCE, FORK_PATIENCE_LOADING = 2.0, 20.0
#: Seconds between looks for a name that is not known at the start: the first time, and how often; it doubles too.
LOOK_AGAIN, LOOKS = 0.005, 12
#: Bytes of a message from the daemon, and of its header; with more the connection is closed.
MESSAGE, HEADER = 16 << 20, 4096
#: Requests to the daemon that may be without an answer; further ones are not made.
ASKED = 64
#: Seconds between two samples of the monitor, whatever the daemon says.
INTERVAL_LEAST, INTERVAL_MOST = 0.05, 3600.0
#: Among multiprocessing's finalizers, which have greater numbers the earlier they are called: after the program's own.
FINALIZER = -1000
#: Characters of the command line, and of any other text.
TEXT = 4096

#: What of the environment the daemon is told.
VARIABLES = (
    "DBGPROXY_NAME", "DBGPROXY_LABELS", "DBGPROXY_WAIT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "PYTEST_XDIST_WORKER",
    "PYTEST_CURRENT_TEST",
)
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


class Link:
    """A connection to the daemon, in messages."""

    def __init__(self, address, busy):
        self.sock = connect(address, busy)
        self.file = socket_file(self.sock)
        self.sending = _thread.allocate_lock()
        self.seq = 0
        self.read = b""
        #: What of the last message could not be sent yet.
        self.unsent = b""
        #: Seconds that a read waits at most, as the kernel knows them.
        self.wait = None
        #: By the numbers of our requests, who is to get the responses.
        self.asked = {}

    def request(self, command, arguments, answered=None):
        request = {"type": "request", "command": command, "arguments": arguments}
        self.send(request, 0 if answered is None else _socket.MSG_DONTWAIT, answered)

    def on_response(self, response):
        answered = self.asked.pop(response.get("request_seq"), None)
        if answered is not None:
            attempt(answered, response)

    def answer_nothing(self):
        """Once the connection is closed: nothing will be answered any more."""
        while self.asked:
            attempt(self.asked.popitem()[1], None)

    def respond(self, request, success, message):
        response = {
            "type": "response", "request_seq": request["seq"], "command": request["command"], "success": success,
        }
        if message is not None:
            response["message"] = clean(message)
        self.send(response)

    def event(self, event, body):
        self.send({"type": "event", "event": event, "body": body}, _socket.MSG_DONTWAIT)

    def send(self, message, flags=0, answered=None):
        if not self.sending.acquire(True, PATIENCE if flags else CONNECT):
            raise OSError("another thread is sending")
        try:
            self.flush(flags)
            message["seq"] = self.seq + 1
            data = frame(message)
            if answered is not None:
                if len(self.asked) >= ASKED:
                    raise OSError("the daemon does not answer")
                self.asked[message["seq"]] = answered
            self.seq += 1
            self.unsent = data
            try:
                self.flush(flags)
            except BlockingIOError:
                if self.unsent is data:
                    self.unsent = b""
                    raise  # Nothing of it is sent, so it is lost; the rest of one that has begun is sent later.
        except BaseException as error:
            self.asked.pop(message.get("seq"), None)
            if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
                # What comes behind half a message would not be understood.
                attempt(self.sock.shutdown, _socket.SHUT_RDWR)
            raise
        finally:
            self.sending.release()

    def flush(self, flags):
        while self.unsent:
            self.check()
            # A program that has given SIGPIPE its default back would die of a daemon that is gone.
            self.unsent = self.unsent[self.sock.send(self.unsent, flags | getattr(_socket, "MSG_NOSIGNAL", 0)) :]

    def receive(self, wait=None):
        """The next message; None if it has not come in so many seconds. What is not one of ours is an error."""
        while True:
            header, end, rest = self.read.partition(b"\r\n\r\n")
            if self.read[:15].lower() != b"content-length:"[: len(self.read)] or len(header) > HEADER:
                raise ValueError("this is no daemon")
            if end:
                length = int(header[15:])
                if length > MESSAGE:
                    raise ValueError("a message of %d bytes" % length)
                if len(rest) >= length:
                    self.read = rest[length:]
                    return decode(rest[:length])
            self.check()
            if wait != self.wait:
                # Only for what is received: `settimeout` would let the program wait when it sends.
                self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, timeval(wait or 0.0))
                self.wait = wait
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return None
            if not data:
                raise EOFError("the daemon is gone")
            self.read += data

    def check(self):
        """A program may close all files that it knows nothing of, and open its own under their numbers."""
        if socket_file(self.sock) != self.file:
            self.sock.detach()
            raise OSError("the program has closed our connection")

    def close(self):
        self.check()
        self.sock.close()


def timeval(seconds):
    """As the kernel wants it: two numbers as long as an address."""
    size = 8 if sys.maxsize > 1 << 32 else 4
    micros = int(seconds * 1e6)
    return (micros // 1000000).to_bytes(size, sys.byteorder) + (micros % 1000000).to_bytes(size, sys.byteorder)


def frame(message):
    body = encode(message).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def connect(address, busy=None):
    """A connection to `host:port` or `unix:PATH`, which no child inherits."""
    if address.startswith("unix:"):
        return connected(_socket.AF_UNIX, address[len("unix:") :])
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except OSError:
            continue
        return connected(family, (host, int(port)))
    # The resolver's locks are not for a fork's child. Bytes, because texts would be encoded by a large module.
    with busy or _thread.allocate_lock():
        found = _socket.getaddrinfo(host.encode(), int(port), 0, _socket.SOCK_STREAM)
    for family, _, _, _, where in found:
        try:
            return connected(family, where)
        except OSError as error:
            failure = error
    raise failure


def connected(family, where):
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        low = []
        while sock.fileno() <= 2:
            # The program has no standard input or output, and must not get the daemon's connection for one.
            low.append(sock)
            sock = _socket.socket(family, _socket.SOCK_STREAM)
        for other in low:
            other.close()
        sock.settimeout(CONNECT)
        sock.connect(where)
        if family != _socket.AF_UNIX:
            if sock.getsockname() == sock.getpeername():
                raise OSError("nobody is there: the kernel has connected us with ourselves")
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
        sock.settimeout(None)
        return sock
    except BaseException:
        sock.close()
        raise


def socket_file(sock):
    try:
        status = os.fstat(sock.fileno())
        return status.st_dev, status.st_ino
    except OSError:
        return None


def block_signals():
    """The program's signals are for its own threads, whose system calls they are to interrupt; returns what was."""
    faults = {getattr(_signal, name, None) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")}
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - faults)


# ---- JSON --------------------------------------------------------------------------------------------------------


class Encoded:
    """What may be large, and has nothing in it that only `encode` knows how to say: C code makes it JSON."""

    def __init__(self, value):
        encoder = _json.make_encoder(None, None, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
        self.text = "".join(encoder(value, 0))


class _Context:
    """What the C part of `json` wants to be told; the Python part is too slow to load."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float, parse_int = float, int
    memo = {}


def decode(data):
    message, _ = _json.make_scanner(_Context)(data.decode("utf-8"), 0)
    if not isinstance(message, dict):
        raise ValueError("a message is an object")
    return message


def encode(value):
    if value is None:
        return "null"
    if isinstance(value, Encoded):
        return value.text
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{%s}" % ",".join("%s:%s" % (encode(key), encode(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "[%s]" % ",".join(map(encode, value))
    if isinstance(value, float):
        return float.__repr__(value) if value - value == 0 else "null"
    return _json.encode_basestring_ascii(value) if isinstance(value, str) else "%d" % value


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


# ---- who the process is ------------------------------------------------------------------------------------------


def uuid4():
    number = int.from_bytes(os.urandom(16), "big") & ~(0xF << 76) & ~(0x3 << 62) | 4 << 76 | 2 << 62
    digits = "%032x" % number
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def identity():
    """As the guard says it: the start time tells a reused pid apart, the rest is one machine's and container's."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        boot = file.read().decode().strip()
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    namespace = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    return "%s/%s/%d/%d" % (boot, namespace, os.getpid(), ticks)


def command():
    """The command line, with what Python itself took of it."""
    words = getattr(sys, "orig_argv", None)
    if words is None:
        try:
            with open("/proc/self/cmdline", "rb") as file:
                words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
        except OSError:
            words = [sys.executable] + sys.argv
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


def process_name(forked):
    """The name that multiprocessing gives the process. In os.fork() that is with the code that forks."""
    if forked:
        for launch in stack("_launch"):
            return clean(launch.f_locals["process_obj"].name)
        return None
    process = sys.modules.get("multiprocessing.process")
    return clean(process.current_process().name) if process is not None else None


#: What people do not run to debug it: modules and scripts by their name, and functions of `-c` code by their module.
TOOLS = ("pip", "ensurepip", "venv", "virtualenv", "compileall")
SERVANTS = ("resource_tracker", "semaphore_tracker", "forkserver")


def helper(forked):
    """What the process is if it works for other programs only, by its command line."""
    if forked:
        return None  # The command line is its parent's.
    option, what = python_command()
    if option == "c":
        code = what.split()
        if code[:1] == ["from"] and code[2:3] == ["import"] and code[3:4] and code[3].startswith("main"):
            module = code[1].rpartition(".")[2]
            return module if module in SERVANTS else None
        return "pip" if 'run_module("pip"' in what else None
    if option == "m":
        module = what.partition(".")[0]
        return module if module in TOOLS else None
    parts = what.split(os.sep)
    if parts[-1] in ("__pip-runner__.py", "_in_process.py"):
        return "pip"
    if parts[-2:] == ["debugpy", "adapter"]:
        return "debugpy"
    if parts[-1] == "__main__.py":
        parts.pop()
    name = parts[-1].rstrip("0123456789.") if parts else ""
    return name if name in TOOLS else None


def python_command():
    """What the interpreter was told to run: "c" and code, "m" and a module, or "" and a path."""
    words = iter(command()[1:])
    for word in words:
        if not word.startswith("-") or word == "-":
            return "", word
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                next(words, None)
            continue
        for i, letter in enumerate(word[1:], 2):
            if letter in "cm":
                return letter, word[i:] or next(words, "")
            if letter in "XW":
                if not word[i:]:
                    next(words, None)
                break
    return "", ""


def stack(function):
    """The frames of this thread that run a function of that name."""
    caller = sys._getframe()
    while caller is not None:
        if caller.f_code.co_name == function:
            yield caller
        caller = caller.f_back


def environment():
    return {key: clean(os.environ[key]) for key in VARIABLES if key in os.environ}


def monitored_parts():
    """What the program's environment wants to be monitored: tasks, and what it names beside them; or nothing."""
    parts = {part.strip() for part in os.environ.get("DBGPROXY_MONITOR", "tasks").split(",")}
    return frozenset() if "off" in parts else frozenset(parts & {"locks", "tasks+"} | {"tasks"})


def has_locks():
    """Have locks of the program been monitored?"""
    locks = sys.modules.get(__package__ + "._locks")
    return locks is not None and locks.is_used


def monitor_interval(answer):
    """The seconds between two samples, if the daemon wants any."""
    interval = float(answer.get("monitor") or 0)
    return min(max(interval, INTERVAL_LEAST), INTERVAL_MOST) if interval > 0 else None


def token():
    path = os.environ.get("DBGPROXY_TOKEN_FILE")
    if path:
        try:
            with open(path, "rb") as file:
                return file.read(TEXT).decode().strip()
        except (OSError, ValueError):
            pass
    return os.environ.get("DBGPROXY_TOKEN") or None


def clean(text, limit=TEXT):
    """Undecodable bytes have no place in JSON."""
    text = str.encode(text, "utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def attempt(function, *args):
    try:
        return function(*args)
    except Exception:
        return None
