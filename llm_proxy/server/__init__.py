"""gunicorn's worker and arbiter as this proxy needs them.

Raw fields for the application, refusals in the proxy's form, broken responses that look broken, a watch of the client's
connection, drain and reload. It knows nothing of tokens or providers: it calls the `hooks` of the application.
"""
