"""Starts dbgproxy's agent in each Python that has this directory on PYTHONPATH.

Python imports `sitecustomize` by itself, before any code of the program. This one first runs the one that it
shadows, if there is one, and behaves as that one does; then it boots the agent. It knows nothing of the agent but
its name. Any Python may come by here, so old ones must understand it too: they run what is shadowed, and no more.
"""

import os
import sys


def _behind_us():
    """The path, from behind this directory on: were there two agents' directories, each would find the other."""
    here = os.path.dirname(__file__)
    return sys.path[sys.path.index(here) + 1 :] if here in sys.path else []


def _run_shadowed():
    """Runs the next `sitecustomize` on the path, which takes the place of this one in `sys.modules`.

    What it raises is for `site` to treat.
    """
    import _frozen_importlib

    for finder in sys.meta_path:
        spec = finder.find_spec(__name__, _behind_us())
        if spec is not None:
            # As `import` does it: if it raises, no module of the name stays behind.
            _frozen_importlib._load(spec)
            return


def _boot():
    try:
        # Each start would compile the agent anew where Python is told not to keep what it has compiled, as in most
        # containers. Of the program's own nothing is imported here, and the agent's directory is not the program's.
        keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, False
        try:
            from dbgproxy import _agent
        finally:
            sys.dont_write_bytecode = keeps

        _agent.boot()
    except Exception:
        pass  # The program knows nothing of us, so it must not hear of us either.


if sys.version_info < (3, 4):
    import imp

    # With nothing to find it raises what `site` takes for an answer.
    imp.load_module(__name__, *imp.find_module(__name__, _behind_us()))
else:
    try:
        _run_shadowed()
    finally:
        if sys.version_info >= (3, 8) and os.environ.get("DBGPROXY"):
            _boot()
