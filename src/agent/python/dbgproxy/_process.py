"""Who this process is: what it can say of itself without asking anybody, as texts that a message can hold.

It is imported at the start of every Python process, and knows nothing of the link to the daemon. What cannot be had is
an exception here, of which `attempt` makes nothing.
"""

import os
import sys

#: Characters of the command line, and of any other text.
TEXT = 4096

#: What of the environment the daemon is told.
VARIABLES = (
    "DBGPROXY_NAME", "DBGPROXY_LABELS", "DBGPROXY_WAIT", "DBGPROXY_MONITOR", "RANK", "LOCAL_RANK", "WORLD_SIZE",
    "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST",
)


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
    if not text.isascii():
        text = str.encode(text, "utf-8", "surrogatepass").decode("utf-8", "replace")
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def attempt(function, *args):
    """What it gives; nothing if it fails, for the program must not notice."""
    try:
        return function(*args)
    except Exception:
        return None
