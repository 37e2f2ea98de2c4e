"""A receiver in a container without a network, without a shell, and with nothing to write to but its journal."""

from __future__ import annotations

import json

from tests.deploy.image.engine import Engine
from tests.deploy.image.receiver import SECRET, Receiver

#: Seconds that the program gives itself after SIGTERM (docs/reference/metrics.md).
WATCHDOG = 25

_SEEN_INSIDE = """
import json, os, pathlib
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
def writable(folder):
    try:
        (pathlib.Path(folder) / "probe").write_text("")
        return True
    except OSError:
        return False
print(json.dumps({
    "uid": status["Uid"].split(), "gid": status["Gid"].split(), "capabilities": int(status["CapEff"], 16),
    "new privileges": status["NoNewPrivs"] == "0", "process 1": pathlib.Path("/proc/1/cmdline").read_text().split("\\0")[1],
    "writable": [f for f in ("/", "/opt/webex-events", "/etc", "/tmp", "/var/lib/webex-events") if writable(f)],
    "interfaces": sorted(os.listdir("/sys/class/net")),
}))
"""


def test_a_signed_event_is_stored_and_sigterm_ends_it_in_time(receiver: Receiver, figures: list[str]) -> None:
    ready = receiver.start()
    code, said = receiver.beside("trigger", "meetings.created", WEBHOOK__SECRET=SECRET)
    assert (code, "answered 204" in said) == (0, True), said
    code, seconds = receiver.stop()
    assert code == 0, receiver.log()
    assert seconds < WATCHDOG
    figures.append(
        f"receiver, on its journal: ready {ready:.1f} s after `podman run`, SIGTERM to exit 0 in {seconds:.1f} s"
    )


def test_a_wrong_signature_is_refused(receiver: Receiver) -> None:
    receiver.start()
    code, said = receiver.beside("trigger", "meetings.created", WEBHOOK__SECRET="another-secret-than-that")
    assert (code, "401" in said) == (1, True), said


def test_while_kafka_is_away_it_takes_events_and_ends_in_time(receiver: Receiver, figures: list[str]) -> None:
    receiver.start(BUS="kafka", KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:9092")
    code, said = receiver.beside("trigger", "meetings.created", WEBHOOK__SECRET=SECRET)
    assert (code, "answered 204" in said) == (0, True), said
    code, seconds = receiver.stop()
    assert code == 0, receiver.log()
    assert seconds < WATCHDOG
    figures.append(f"receiver, Kafka away: SIGTERM to exit 0 in {seconds:.1f} s")


def test_it_is_locked_up(receiver: Receiver) -> None:
    receiver.start()
    seen = json.loads(receiver.inside(_SEEN_INSIDE))
    assert seen == {
        "uid": ["65532"] * 4,
        "gid": ["65532"] * 4,
        "capabilities": 0,
        "new privileges": False,
        "process 1": "/opt/webex-events/bin/webex-events",
        "writable": ["/tmp", "/var/lib/webex-events"],  # noqa: S108 - in the container
        "interfaces": ["lo"],
    }


def test_the_images_own_health_check_knows_ready_from_not(engine: Engine, receiver: Receiver) -> None:
    receiver.start()
    assert engine.run("podman", "healthcheck", "run", receiver.name).returncode == 0
    code, said = receiver.beside("health", ADMIN__PORT="9099")
    assert code == 1, said
