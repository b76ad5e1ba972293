"""Tests that pytest-xdist runs in several workers.

    dbgproxy run -- pytest -n 2 examples/test_parallel.py

Set a breakpoint in a test: it stops in the worker that runs it, which is shown as `gw0 · test_square`.
"""

import pytest


@pytest.mark.parametrize("number", range(4))
def test_square(number):
    result = number * number  # set a breakpoint here
    assert result >= number
