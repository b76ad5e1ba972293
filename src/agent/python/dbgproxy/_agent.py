"""The agent: it tells the daemon of this process."""


def boot():
    """Starts the agent, once."""
