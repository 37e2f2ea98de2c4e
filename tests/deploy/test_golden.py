"""The golden renderings are what the chart makes, and a change of a template shows in them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.golden import FOLDER, GOLDEN, difference, of
from tests.deploy.render import CHART


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_chart_makes_is_what_was_looked_at(name: str) -> None:
    """Else: look at the difference, then ``python -m tests.deploy.golden --write``."""
    found = "\n".join(difference(name))

    assert not found, found


def test_none_is_left_over() -> None:
    """Each file is one that is compared."""
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in GOLDEN}


@pytest.mark.parametrize(
    ("file", "before", "after", "seen"),
    [
        (
            "templates/receiver/service.yaml",
            "appProtocol: http",
            "appProtocol: h2c",
            "+  - {name: webhooks, port: 80, targetPort: webhooks, appProtocol: h2c}",
        ),
        (
            "templates/_pod.tpl",
            "enableServiceLinks: false",
            "enableServiceLinks: true",
            "+      enableServiceLinks: true",
        ),
        ("templates/config/settings.yaml", "kind: ConfigMap", "kind: Secret", "+kind: Secret"),
        ("values.yaml", "revisionHistoryLimit: 3", "revisionHistoryLimit: 4", "+  revisionHistoryLimit: 4"),
    ],
)
def test_a_change_shows(file: str, before: str, after: str, seen: str, tmp_path: Path) -> None:
    """As the line that a cluster would get."""
    changed = _changed(tmp_path, file, re.escape(before), after)

    assert seen in list(difference("minimal", changed))


@pytest.mark.parametrize(
    ("file", "pattern", "after"),
    [
        ("Chart.yaml", r"^(version|appVersion): .*$", r"\1: 9.8.7"),
        ("templates/pdb.yaml", r"\A", "{{- /* said once more */}}\n"),
        ("files/rules/webex-events.yaml", r"summary: .*", "summary: said otherwise"),
    ],
)
def test_a_change_that_no_cluster_would_see_does_not(file: str, pattern: str, after: str, tmp_path: Path) -> None:
    """A release, a comment; a rule has its own tests."""
    assert of("production", _changed(tmp_path, file, pattern, after)) == of("production")


def _changed(folder: Path, file: str, pattern: str, after: str) -> Path:
    """The chart with one thing otherwise."""
    chart = folder / CHART.name
    shutil.copytree(CHART, chart)
    text = (chart / file).read_text("utf-8")
    changed = re.sub(pattern, after, text, flags=re.MULTILINE)
    assert changed != text
    (chart / file).write_text(changed, "utf-8")
    return chart
