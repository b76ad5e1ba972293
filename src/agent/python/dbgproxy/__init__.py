"""dbgproxy inside a Python process.

Importing it needs no daemon, and imports nothing else.
"""
