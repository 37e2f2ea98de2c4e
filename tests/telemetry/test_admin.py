"""The private listener."""

from __future__ import annotations

import httpx
import pytest

from service.telemetry.admin import create_app
from service.telemetry.metrics import Metrics


async def ask(method: str, path: str, *, live: bool = True, ready: bool = True) -> httpx.Response:
    """One request to a process in this state."""
    app = create_app(live=lambda: live, ready=lambda: ready, metrics=Metrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("method", "path", "live", "ready", "status"),
    [
        pytest.param("GET", "/livez", True, False, 200, id="alive"),
        pytest.param("GET", "/livez", False, True, 503, id="stuck"),
        pytest.param("GET", "/readyz", False, True, 200, id="ready"),
        pytest.param("GET", "/readyz", True, False, 503, id="not ready"),
        pytest.param("HEAD", "/readyz", True, True, 200, id="HEAD"),
        pytest.param("GET", "/metrics", False, False, 200, id="metrics, whatever the state"),
        pytest.param("POST", "/livez", True, True, 405, id="POST"),
        pytest.param("GET", "/", True, True, 404, id="nothing there"),
        pytest.param("GET", "/livez/", True, True, 404, id="a slash at the end"),
        pytest.param("POST", "/webhooks/webex", True, True, 404, id="the public listener's path"),
    ],
)
async def test_the_private_listener_answers(method: str, path: str, live: bool, ready: bool, status: int) -> None:
    """Probes tell the truth; refusals are problem documents."""
    answer = await ask(method, path, live=live, ready=ready)

    assert answer.status_code == status
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


async def test_metrics_are_prometheus_text() -> None:
    """A scrape gets the text format."""
    answer = await ask("GET", "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE webex_events_work_queue_depth gauge" in answer.text
