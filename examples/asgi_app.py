"""An ASGI application, as uvicorn serves it from several workers, or again whenever the file is saved.

    dbgproxy run -- uvicorn --app-dir examples --workers 2 asgi_app:app
    dbgproxy run -- uvicorn --app-dir examples --reload asgi_app:app

Set a breakpoint in `app` and open http://127.0.0.1:8000/: it stops in the worker that serves the request.
"""


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    answer = b"answer: %d\n" % (6 * 7)  # set a breakpoint here
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
