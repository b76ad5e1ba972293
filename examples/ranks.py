"""Training on several ranks, each of which is a process, as torchrun and its like start them.

    dbgproxy run -- python examples/ranks.py 3

Set a breakpoint in `train` with the condition `@{rank=0} step == 2`: it stops rank 0, at its third step, and no other.
"""

import os
import subprocess
import sys


def train(rank):
    total = 0
    for step in range(4):
        total += rank + step  # set a breakpoint here
    return total


def launch(size):
    """What a launcher does: the same program once for each rank, which it tells by the environment."""
    ranks = []
    for rank in range(size):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        ranks.append(subprocess.Popen([sys.executable, __file__], env={**os.environ, **variables}))
    return max([rank.wait() for rank in ranks])


if __name__ == "__main__":
    if "RANK" in os.environ:
        sys.exit(0 if train(int(os.environ["RANK"])) >= 0 else 1)
    sys.exit(launch(int(sys.argv[1])))
