import json
import os
import sys

debugpy = None
try:
    from importlib.util import find_spec

    spec = find_spec("debugpy")
    if spec is not None and spec.origin:
        debugpy = ""
        import re

        with open(os.path.join(os.path.dirname(spec.origin), "_version.py")) as file:
            debugpy = re.search('"version": "([^"]+)"', file.read()).group(1)
except Exception:
    pass
try:
    import sysconfig

    packages = sysconfig.get_path("purelib")
except Exception:
    packages = ""
try:
    implementation = {"cpython": "CPython", "pypy": "PyPy"}.get(
        sys.implementation.name, sys.implementation.name
    )
except Exception:
    implementation = "CPython"
print("")
print(
    json.dumps(
        {
            "version": list(sys.version_info[:3]),
            "implementation": implementation,
            "prefix": sys.prefix,
            "packages": packages,
            "debugpy": debugpy,
        }
    )
)
