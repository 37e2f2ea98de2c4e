"""The private listener."""

from __future__ import annotations

import httpx
import pytest

from service.telemetry.admin import create_app
from service.telemetry.metrics import Metrics


async def ask(method: str, path: str, *, live: bool = True, ready: bool = True) -> httpx.Response:
    """One request to a process in this state."""
    app = create_app(
        stuck=lambda: None if live else "The loop hangs",
        unready=lambda: None if ready else "The journal is full",
        metrics=Metrics(),
    )
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


async def test_a_probe_that_fails_says_why() -> None:
    """The sentence is in the problem document; nothing else has to be looked up first."""
    assert (await ask("GET", "/livez", live=False)).json()["detail"] == "The loop hangs"
    assert (await ask("GET", "/readyz", ready=False)).json()["detail"] == "The journal is full"


async def test_metrics_are_prometheus_text() -> None:
    """A scrape gets the text format."""
    answer = await ask("GET", "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE webex_events_work_queue_depth gauge" in answer.text
