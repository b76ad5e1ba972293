"""A WSGI application, as gunicorn serves it from several workers.

    dbgproxy run -- gunicorn --chdir examples --workers 2 wsgi_app:app

Set a breakpoint in `app` and open http://127.0.0.1:8000/: it stops in the worker that serves the request.
"""


def app(environ, start_response):
    answer = b"answer: %d\n" % (6 * 7)  # set a breakpoint here
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
