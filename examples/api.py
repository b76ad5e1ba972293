"""A program that says what it is doing, and waits for an IDE if it is told to.

    dbgproxy run -- python examples/api.py
    dbgproxy run -- python examples/api.py --wait

It runs just as well without dbgproxy.
"""

import asyncio
import sys

try:
    import dbgproxy
except ImportError:
    dbgproxy = None


async def fetch(number):
    await asyncio.sleep(0)
    return number * number


async def fetch_all():
    operations = [dbgproxy.debug_async_operation(fetch(number), name="fetch %d" % number) for number in range(3)]
    return await asyncio.gather(*operations)


def main():
    if dbgproxy is None:
        print("dbgproxy is not here")
        return
    if "--wait" in sys.argv:
        print("an IDE is here" if dbgproxy.wait_for_ide(timeout=60) else "no IDE has come")

    with dbgproxy.debug_session("fetching", metadata={"numbers": 3}) as session:
        print("fetched", asyncio.run(fetch_all()))
    print("fetching has", session.status)

    try:
        with dbgproxy.debug_session("dividing"):
            1 / 0
    except ZeroDivisionError as error:
        print("an exception passes through:", error)

    dbgproxy.breakpoint()  # stops here if an IDE is attached
    for each in (dbgproxy.get_remote_debugger().get_session_info() or {}).get("debugSessions", []):
        print("the daemon knows of", each["name"], "that it has", each["status"])


if __name__ == "__main__":
    main()
