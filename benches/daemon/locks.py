"""What the monitor costs a program, in figures: a line each, a name and a number."""

import asyncio
import multiprocessing
import queue
import sys
import threading
import time
from _thread import RLock, allocate_lock

import dbgproxy

ROUNDS, TURNS = int(sys.argv[2]), 1000


def measure(name, function):
    """The least that a turn takes, in nanoseconds; the loop itself is taken off."""
    best = min(function() for _ in range(ROUNDS)) - min(empty() for _ in range(ROUNDS))
    print(name, "%.0f" % (best / TURNS * 1e9))


def empty():
    begun = time.thread_time()
    for _ in range(TURNS):
        pass
    return time.thread_time() - begun


def using(lock):
    def turns():
        begun = time.thread_time()
        for _ in range(TURNS):
            with lock:
                pass
        return time.thread_time() - begun

    return turns


def naming(lock):
    def turns():
        begun = time.thread_time()
        for _ in range(TURNS):
            with dbgproxy.monitor_lock("name", lock):
                pass
        return time.thread_time() - begun

    return turns


def passing(channel):
    def turns():
        begun = time.thread_time()
        for _ in range(TURNS):
            channel.put(1)
            channel.get()
        return time.thread_time() - begun

    return turns


class Prototype:
    """The least that a wrapper written in Python can be that notes who has a lock, and since when."""

    __slots__ = ("lock", "owner", "since")

    def __init__(self, lock):
        self.lock = lock

    def __enter__(self):
        if not self.lock.acquire(False):
            self.lock.acquire()
        self.owner = threading.get_ident()
        self.since = time.monotonic()
        return True

    def __exit__(self, *error):
        self.owner = 0
        self.lock.release()


def locks():
    bare = allocate_lock()
    measure("Lock,bare", using(bare))
    measure("Lock,prototype", using(Prototype(bare)))
    measure("Lock,patched", using(threading.Lock()))
    measure("RLock,bare", using(RLock()))
    measure("RLock,patched", using(threading.RLock()))
    measure("Lock,reused", using(dbgproxy.monitor_lock("name", bare)))
    measure("Lock,new", naming(bare))


def others():
    """What is compared between a program that is monitored and one that is not."""
    measure("multiprocessing", using(multiprocessing.Lock()))
    measure("queue", passing(queue.Queue()))
    loop = asyncio.new_event_loop()

    async def coroutine():
        lock = asyncio.Lock()
        begun = time.thread_time()
        for _ in range(TURNS):
            async with lock:
                pass
        return time.thread_time() - begun

    measure("asyncio", lambda: loop.run_until_complete(coroutine()))

    async def nothing():
        pass

    async def making():
        begun = time.thread_time()
        for _ in range(TURNS):
            await loop.create_task(nothing())
        return time.thread_time() - begun

    measure("task", lambda: loop.run_until_complete(making()))


def many():
    """The part of a core that a program with 10,000 tasks takes that does nothing itself, in percent."""

    async def main():
        tasks = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(10000)]
        await asyncio.sleep(2)
        used, begun = time.process_time(), time.monotonic()
        await asyncio.sleep(5)
        print("many %.3f" % (100 * (time.process_time() - used) / (time.monotonic() - begun)))
        for task in tasks:
            task.cancel()

    asyncio.run(main())


{"locks": locks, "others": others, "many": many}[sys.argv[1]]()
