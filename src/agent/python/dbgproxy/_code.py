"""Code and where it is: whose it is, its file and line, and texts as short as they are told.

It knows nothing of what is looked for there.
"""

import os

from ._process import clean

#: Characters of a name or message.
TEXT = 200

_HERE = os.path.dirname(__file__) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = tuple(_LIBRARY + name for name in ("site-packages", "dist-packages"))
_DEBUGGER = os.sep + "debugpy" + os.sep


def is_library(code):
    """Is it of the standard library, or of the debugger, and not of the program?"""
    file = code.co_filename
    if file.startswith(_LIBRARY):
        return not file.startswith(_PACKAGES) or is_debugger(code)
    return file.startswith(("<frozen ", _HERE)) or is_debugger(code)


def is_debugger(code):
    return _DEBUGGER in code.co_filename


def is_library_file(file):
    return file.startswith(("<frozen ", _HERE)) or file.startswith(_LIBRARY) and not file.startswith(_PACKAGES)


def is_agent(code):
    """Is it the agent's?"""
    return code.co_filename.startswith(_HERE)


def creator(frame, *files):
    """Who makes a lock, the calls within these files left out; None if that is not the program."""
    while frame is not None and frame.f_code.co_filename in files:
        frame = frame.f_back
    return None if frame is None or is_library(frame.f_code) else frame


def line_of(code, lasti):
    found = code.co_firstlineno
    if hasattr(code, "co_lines"):
        for start, end, line in code.co_lines():
            if start <= lasti < end:
                return line or found
        return found
    line, offset, table = found, 0, code.co_lnotab
    for step, lines in zip(table[::2], table[1::2]):
        offset += step
        if offset > lasti:
            break
        line += lines - 256 if lines >= 128 else lines
    return line


def file_of(code):
    file = code.co_filename
    return file if file.startswith("<") else os.path.abspath(file)


def place(code, lasti):
    return None if code is None else [file_of(code), line_of(code, lasti)]


def text(value, limit=TEXT):
    return clean(value, limit) if isinstance(value, str) else ""


def outside(frame):
    """The nearest caller that is not one of the library's, if there is one before the event loop."""
    found = frame
    while found is not None and is_library(found.f_code):
        found = None if found.f_code.co_name == "_run_once" else found.f_back
    return found or frame
