"""A Django project in one file under its development server, which starts it again whenever the file is saved.

    dbgproxy run -- python examples/django_app.py runserver

Set a breakpoint in `index` and open http://127.0.0.1:8000/. After each restart it stops in the new process.
"""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

settings.configure(DEBUG=True, ROOT_URLCONF=__name__, SECRET_KEY="for development only", ALLOWED_HOSTS=["127.0.0.1"])


def index(request):
    answer = 6 * 7  # set a breakpoint here
    return HttpResponse(f"answer: {answer}\n")


urlpatterns = [path("", index)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
