"""A program that is many processes: a pool whose workers square numbers.

Set a breakpoint in `square`: it stops in every worker.
"""

import multiprocessing


def square(number):
    result = number * number  # set a breakpoint here
    return result


if __name__ == "__main__":
    with multiprocessing.Pool(4) as pool:
        print(pool.map(square, range(4), chunksize=1))
