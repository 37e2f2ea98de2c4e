"""CPU µs from a request's bytes to its records, stage by stage. Run it: python -m tests.benchmarks.bench_core.

Stages: ``verify`` (one secret, the headers that Webex sends), ``read`` (strict JSON: which kind, which meeting, the event's
data), ``event`` (its id and attributes), ``encode`` (the event's record), ``hint`` (the processor's record, where there is
one). ``accept`` is all but the first in one call. ``--json`` for programs.
"""

from __future__ import annotations

import json
import sys
import time
import timeit
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from service.core import event, notification, work
from service.core.notification import Delivery, Doubt, Notification, accept
from service.core.organizations import SINGLE
from service.core.signature import Verifier, sign

SAMPLES = Path(__file__).parents[1] / "samples"
NAMES = ("meetings.started", "meetings.ended", "meetingParticipants.joined", "registrants.created", "messages.created")
SECRET = b"a secret as long as they are"
RECEIVED = datetime(2026, 1, 20, 12, 0, 10, 123456, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

#: What else stands in a request's head.
OTHERS = [(name, b"x") for name in (b"host", b"user-agent", b"accept", b"content-type", b"content-length", b"via")]


def microseconds(run: Callable[[], object], *, times: int = 300) -> float:
    """CPU time of one call: the best of fifty runs, since others use this machine too."""
    return min(timeit.repeat(run, number=times, repeat=50, timer=time.process_time)) / times * 1e6


def stages(body: bytes) -> dict[str, float]:
    """µs for each stage of this body; the last ones only where it is understood."""
    headers = OTHERS + [(name.lower().encode(), value.encode()) for name, value in sign(body, SECRET).items()]
    verifier = Verifier([SECRET])
    found = {
        "verify": microseconds(lambda: verifier.signer(body, headers)),
        "accept": microseconds(lambda: accept(body, received=RECEIVED, receiver="r1", traceparent=TRACE)),
        "read": microseconds(lambda: _read(body)),
    }
    understood = _read(body)
    return found | _making(understood, body) if understood else found


def _read(body: bytes) -> Notification | None:
    """The quick way or the careful one; None for what goes to quarantine."""
    if quick := notification.quickly(body):
        return quick
    read = notification._read(body)
    understood = read if isinstance(read, Doubt) else notification._understand(read)
    return None if isinstance(understood, Doubt) else understood


def _making(understood: Notification, body: bytes) -> dict[str, float]:
    delivery = Delivery(body, event.rfc3339(RECEIVED), "r1", TRACE)
    made = notification._normalized(understood, delivery)
    found = {
        "event": microseconds(lambda: notification._normalized(understood, delivery)),
        "encode": microseconds(lambda: event.to_message(made)),
    }
    if work.triggers(made.type):
        found["hint"] = microseconds(lambda: notification._hint(understood, made, SINGLE))
    return found


def main() -> None:
    """Print a line for each sample, or all of them as JSON."""
    bodies = {name: (SAMPLES / f"{name}.json").read_bytes() for name in NAMES}
    found = {name: stages(body) for name, body in bodies.items()}
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    columns = list(found[NAMES[0]])
    sys.stdout.write(f"{'µs of CPU':28} bytes " + " ".join(f"{column:>10}" for column in columns) + "\n")
    for name, row in found.items():
        figures = " ".join(f"{row[column]:10.2f}" if column in row else f"{'-':>10}" for column in columns)
        sys.stdout.write(f"{name:28} {len(bodies[name]):5} {figures}\n")


if __name__ == "__main__":
    main()
