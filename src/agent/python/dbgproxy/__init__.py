"""dbgproxy inside a Python process."""
