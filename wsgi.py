"""The WSGI application: `gunicorn -c python:llm_proxy.gunicorn_conf wsgi:app`, `flask --app wsgi …`."""

from llm_proxy.app import create_app

app = create_app()
