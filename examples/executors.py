"""Work that is done in processes: each of the pools of the standard library, with each way to start a worker.

    dbgproxy run -- python examples/executors.py executor spawn
    dbgproxy run -- python examples/executors.py pool fork

Set a breakpoint in `square`: it stops in every worker, and the others go on.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor


def square(number):
    result = number * number  # set a breakpoint here
    return result


def main(kind, method):
    context = multiprocessing.get_context(method)
    if kind == "executor":
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            print(list(executor.map(square, range(4))))
    else:
        with context.Pool(2) as pool:
            print(pool.map(square, range(4), chunksize=1))
            pool.close()
            pool.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
