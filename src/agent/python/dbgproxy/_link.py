"""The link of a process to the daemon: a connection, and the messages on it.

The wire is DAP's framing and envelopes (`Content-Length: N`, an empty line, JSON). What messages say is the agent's
business, and a link that has failed once is of no use any more: the agent makes another.

The program may close files, fork and end in any line of this. It is imported at the start of every Python process,
so what `socket` and `json` have in Python is left alone: their C modules do.
"""

import _thread
import os
import sys

from ._process import attempt, clean


def _import_quietly(name):
    """Imports a C module and leaves `sys.modules` as it was, for the program to import it when it wants to."""
    known = name in sys.modules
    module = __import__(name)
    if not known:
        del sys.modules[name]
    return module


_json = _import_quietly("_json")
_socket = _import_quietly("_socket")

#: Seconds that a connection may take to be made.
CONNECT = 10.0
#: Seconds that what must not take time waits for its turn to send; all else may wait as long as for a connection.
TURN = 0.05
#: Bytes of a message from the daemon, and of its header; with more the connection is closed.
MESSAGE, HEADER = 16 << 20, 4096
#: Requests to the daemon that may be without an answer; further ones are not made.
ASKED = 64


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
        if not self.sending.acquire(True, TURN if flags else CONNECT):
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
