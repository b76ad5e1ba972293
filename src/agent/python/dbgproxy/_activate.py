"""Brings pydevd into this process."""
