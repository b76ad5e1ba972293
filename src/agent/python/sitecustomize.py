"""Starts dbgproxy's agent in each Python that has this directory on PYTHONPATH.

Python imports `sitecustomize` by itself, before any code of the program. This one first runs the one that it
shadows, if there is one, and behaves as that one does; then it boots the agent. It knows nothing of the agent but
its name. Any Python may come by here, so it must be understood by old ones too: they run what is shadowed, and
nothing else.
"""

import os
import sys


def _run_shadowed():
    """Runs the next `sitecustomize` on the path in place of this one, as `site` would have done without us.

    What it raises is for `site` to treat, also that there is none: then no module of this name stays behind.
    """
    here = os.path.dirname(__file__)
    # Only what comes behind this directory: were there two agents' directories, each would find the other for ever.
    path = sys.path[sys.path.index(here) + 1 :] if here in sys.path else []
    if sys.version_info < (3, 4):
        import imp

        imp.load_module(__name__, *imp.find_module(__name__, path))
        return
    import _frozen_importlib

    for finder in sys.meta_path:
        spec = finder.find_spec(__name__, path)
        if spec is not None:
            # As `import` does it: puts the module into sys.modules, and takes it out again if it raises.
            _frozen_importlib._load(spec)
            return
    raise ImportError("No module named 'sitecustomize'", name="sitecustomize")


def _boot():
    if sys.version_info < (3, 8) or not os.environ.get("DBGPROXY"):
        return
    try:
        from dbgproxy import _agent

        _agent.boot()
    except Exception:
        pass  # The program knows nothing of us, so it must not hear of us either.


try:
    _run_shadowed()
finally:
    _boot()
