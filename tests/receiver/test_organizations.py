"""Which organisation's work a notification becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.core.organizations import SINGLE, Organization, Organizations
from service.core.signature import sign
from tests.receiver.conftest import SECRET, Bench

BODY = (Path(__file__).parents[1] / "samples" / "meetings.started.json").read_bytes()
OURS = "00000001-0000-4000-8000-000000000000"  # the sample's, which has it in the long form
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"


@pytest.mark.parametrize(
    ("organizations", "key"),
    [
        pytest.param(SINGLE, "default", id="one"),
        pytest.param(Organizations((Organization("default", OTHER), Organization(OURS, OURS))), OURS, id="several"),
        pytest.param(Organizations((Organization("default"), Organization(OTHER, OTHER))), OURS, id="not configured"),
    ],
)
async def test_the_hint_goes_to_the_organisation_of_the_event(organizations: Organizations, key: str) -> None:
    """The event is published in any case, and its hint beside it under the organisation's key."""
    bench = Bench(organizations=organizations)
    answer = await bench.send(content=BODY, headers=sign(BODY, SECRET))

    assert answer.status_code == 204
    ((published, hint),) = bench.publisher.batches
    assert (published.topic, hint.topic, hint.key) == ("meetings", "work", key)
