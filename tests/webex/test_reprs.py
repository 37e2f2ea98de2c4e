"""Nothing that carries an answer or a person shows it in its repr, where logs and tracebacks would find it."""

from __future__ import annotations

import pytest

from service.core.meetings import Meeting
from service.core.registrants import Registrant
from service.webex.client import Reply
from service.webex.protocol import Answer, Request

CANARY = "canary-7f3a"
FIELDS = {"access_token": CANARY, "hostKey": CANARY, "email": f"{CANARY}@example.com"}


@pytest.mark.parametrize(
    "carrier",
    [
        Reply(status=200, value=FIELDS, link=CANARY, tracking_id=None),
        Answer(status=200, headers={"x": CANARY}, body=CANARY.encode()),
        Request(operation="o", method="GET", path="/x", query=FIELDS, headers=FIELDS, json=FIELDS),
        Meeting(id="m", title=CANARY, fields=FIELDS),
        Registrant(id="r", status="pending", email=CANARY, registered=None, fields=FIELDS),
    ],
    ids=lambda carrier: type(carrier).__name__,
)
def test_a_repr_shows_nothing_of_what_is_carried(carrier: object) -> None:
    """Only what a log line may have anyway."""
    assert CANARY not in repr(carrier)
