"""A task queue: Celery's worker, which runs its tasks in processes that it forks, with a broker of plain files.

    dbgproxy run -- celery --workdir examples -A celery_app worker --concurrency 2
    cd examples && python celery_app.py

Set a breakpoint in `square`: it stops in the process that runs the task.
"""

import os

from celery import Celery

files = os.environ.get("CELERY_FILES", "/tmp/celery-files")
for name in ("queue", "control", "results"):
    os.makedirs(os.path.join(files, name), exist_ok=True)

app = Celery("celery_app", broker="filesystem://", backend="file://" + os.path.join(files, "results"))
app.conf.broker_transport_options = {
    "data_folder_in": os.path.join(files, "queue"),
    "data_folder_out": os.path.join(files, "queue"),
    "control_folder": os.path.join(files, "control"),
}


@app.task(name="square")
def square(number):
    result = number * number  # set a breakpoint here
    return result


if __name__ == "__main__":
    print("answer:", square.delay(6).get(timeout=3600))
