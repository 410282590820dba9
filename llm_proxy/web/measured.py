"""How long the management API takes, by prometheus_flask_exporter; never on /v1 (ADR 0061)."""

from flask import Flask, request
from prometheus_flask_exporter import PrometheusMetrics

from llm_proxy import metrics

_exporter = PrometheusMetrics.for_app_factory(registry=metrics.REGISTRY, path=None, export_defaults=False)
_timed = _exporter.histogram(
    "llm_proxy_management_duration_seconds",
    "Time of a call of the management API.",
    labels={
        "endpoint": lambda: (request.endpoint or "").removeprefix("management."),
        "method": lambda: request.method if request.method in metrics.METHODS else "other",
        "status_class": lambda response: f"{response.status_code // 100}xx",
    },
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


def register(app: Flask, blueprint: str) -> None:
    """Time every view of a blueprint that is registered by now; labels are a closed set."""
    for endpoint, view in list(app.view_functions.items()):
        if endpoint.startswith(f"{blueprint}."):
            app.view_functions[endpoint] = _timed(view)
