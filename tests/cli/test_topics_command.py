"""`topics plan|apply` on a real broker, and where there is none."""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.program import invoke, refusal, run
from tests.kafka.harness import Cluster

TOPICS = 13


def states(done: subprocess.CompletedProcess[bytes]) -> Counter[str]:
    """How many topics are in which state; the command succeeded."""
    assert done.returncode == 0, done.stderr.decode()
    return Counter(line.split()[1] for line in done.stdout.decode().splitlines())


def test_plan_then_apply_then_nothing_to_do(tmp_path: Path, kafka: Cluster, topic_prefix: str) -> None:
    """Plan changes nothing; apply creates what is missing, with the settings' partitions; the second finds all done."""
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA__TOPIC_PREFIX": topic_prefix,
        "KAFKA__TOPICS__PARTITIONS": "1",
        "KAFKA__TOPICS__RETENTION_DAYS": "3",
    }
    assert states(run("topics", "plan", folder=tmp_path, settings=settings)) == {"missing": TOPICS}
    assert states(invoke("topics", "plan", folder=tmp_path, settings=settings)) == {"missing": TOPICS}
    assert states(run("topics", "apply", folder=tmp_path, settings=settings)) == {"created": TOPICS}
    assert states(invoke("topics", "apply", folder=tmp_path, settings=settings)) == {"unchanged": TOPICS}

    longer = invoke("topics", "plan", folder=tmp_path, settings={**settings, "KAFKA__TOPICS__RETENTION_DAYS": "4"})
    assert states(longer) == {"different": TOPICS - 1, "unchanged": 1}
    assert "retention.ms=345600000" in longer.stdout.decode()
    more = invoke("topics", "apply", folder=tmp_path, settings={**settings, "KAFKA__TOPICS__PARTITIONS": "2"})
    assert states(more) == {"unchanged": TOPICS}
    assert more.stdout.decode().count("not changed: ") == TOPICS


@pytest.mark.parametrize("silent", [False, True], ids=["nobody", "somebody who never answers"])
def test_no_kafka_is_4(tmp_path: Path, silent: bool) -> None:
    """A sentence with the address, within bounded time, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not silent:
            listener.close()
        begun = time.monotonic()
        done = run("topics", "plan", folder=tmp_path, settings={"KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port}"})
        took = time.monotonic() - begun

    (line,) = refusal(done, 4)
    assert line.startswith(f"Kafka at 127.0.0.1:{port} {'did not answer within' if silent else 'cannot do it now: '}")
    assert done.stdout == b""
    assert took < 60  # a tenth of it, unless the machine is busy with starting the program
