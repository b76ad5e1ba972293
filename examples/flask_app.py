"""A Flask application under its development server, which starts it again whenever the file is saved.

    dbgproxy run -- flask --app examples/flask_app.py run --debug

Set a breakpoint in `index` and open http://127.0.0.1:5000/. After each restart it stops in the new process.
"""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    answer = 6 * 7  # set a breakpoint here
    return f"answer: {answer}\n"
