"""The harness itself: brokers start, die, freeze and come back, and nothing of it stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import FOLDER_PREFIX, Cluster, KafkaUnavailable, cache_folder, end_leftovers, install

PROJECT = Path(__file__).parents[2]


def _answers(cluster: Cluster) -> bool:
    try:
        cluster.wait_ready(timeout=0.3)
    except RuntimeError:
        return False
    return True


def test_a_broker_comes_back_from_a_kill_and_from_a_pause(kafka_clusters: ClusterFactory) -> None:
    """After SIGKILL and start, and after SIGSTOP and SIGCONT, the broker answers where it did before."""
    cluster = kafka_clusters(1)
    before = cluster.bootstrap
    cluster.brokers[0].kill()
    assert not cluster.brokers[0].running
    cluster.brokers[0].start()
    cluster.wait_ready()
    cluster.brokers[0].pause()
    assert not _answers(cluster)
    cluster.brokers[0].resume()
    cluster.wait_ready()
    assert cluster.bootstrap == before


def test_three_brokers_have_three_addresses_and_list_each_other(kafka_clusters: ClusterFactory) -> None:
    """A cluster of three is ready only when each lists all three; two of them go on without the third."""
    cluster = kafka_clusters(3)
    assert len({b.address for b in cluster.brokers}) == (3 if sys.platform == "linux" else 1)
    assert all(20_000 <= b.port < 32_768 for b in cluster.brokers)
    cluster.brokers[0].kill()
    cluster.wait_ready()


def test_brokers_die_with_a_harness_that_is_killed(kafka: Cluster, tmp_path: Path) -> None:
    """SIGKILL of the process that started a broker leaves neither the broker nor, after the next start, its folder."""
    program = (
        "from tests.kafka.harness import Cluster\n"
        "with Cluster.started() as cluster:\n"
        "    print(cluster.brokers[0]._process.pid, cluster.brokers[0]._folder.parent, flush=True)\n"
        "    input()\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": PROJECT, "env": environment}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as harness:  # type: ignore[call-overload]  # a dict of options
        pid, folder = harness.stdout.readline().split()
        harness.kill()
    end_leftovers(tmp_path)
    shown = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, check=False).stdout.strip()
    assert shown[:1] in {b"", b"Z"}  # a zombie may have flags behind its letter
    assert not Path(folder).exists()


def test_folders_of_a_living_harness_are_left_alone(tmp_path: Path) -> None:
    """Only the leftovers of dead processes are removed."""
    mine = tmp_path / f"{FOLDER_PREFIX}{os.getpid()}-x"
    mine.mkdir()
    end_leftovers(tmp_path)
    assert mine.exists()


def test_without_java_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where Java is missing the harness says so instead of failing somewhere later."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match="java"):
        install(cache_folder())
