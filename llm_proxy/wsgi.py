"""The application as an installed package has it: `gunicorn -c python:llm_proxy.gunicorn_conf llm_proxy.wsgi:app`."""

from llm_proxy.app import create_app

app = create_app()
