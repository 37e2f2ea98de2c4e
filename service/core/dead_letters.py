"""Dead letters: records of ours that led nowhere, with the reason, so that an operator can look, mend and send them again.

A letter is a CloudEvent ``webex.record.buried.v1`` on the topic ``dead-letters``. It is never changed: that it was redriven
or discarded is a later event of the same subject.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from service.core.event import CloudEvent, event_id, new_event
from service.core.message import Received

#: Bytes of a record that its letter repeats; of a longer one its place has to do, where retention keeps it.
LONGEST = 512 * 1024

BURIED, REDRIVEN, DISCARDED = (f"webex.record.{verb}.v1" for verb in ("buried", "redriven", "discarded"))


def bury(
    record: Received,
    *,
    reason: str,
    detail: str = "",
    status: int | None = None,
    tracking_id: str | None = None,
    attempts: int = 0,
    now: datetime,
    receiver: str,
) -> CloudEvent:
    """The letter of ``record``; the same record gives the same id. ``detail`` is a sentence without personal data."""
    value = record.value or b""
    id_ = event_id("letter", record.topic, str(record.partition), str(record.offset))
    data: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key,
        "reason": reason,
        "detail": detail,
        "status": status,
        "trackingId": tracking_id,
        "attempts": attempts,
        "bytes": len(value),
        "valueBase64": base64.b64encode(value).decode() if len(value) <= LONGEST else None,
    }
    return new_event(
        id=id_,
        type=BURIED,
        source="/webex",
        key=id_,
        origin="processor",
        subject=f"letters/{id_}",
        received=now,
        receiver=receiver,
        data=data,
    )
