"""Alerts, their tests and runbooks, and dashboards: each against the real tool, and against what the program measures."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from typer.main import get_command

from service.cli.commands import app
from service.cli.examples import Group
from tests.deploy.tools import tool
from tests.ending import kafka_settings, role

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/webex-events/files/rules/webex-events.yaml"
DASHBOARDS = sorted((ROOT / "helm/webex-events/files/dashboards").glob("*.json"))
CASES = sorted((ROOT / "deploy/monitoring/tests").glob("*.test.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
REFERENCE = ROOT / "docs/reference/metrics.md"

SEVERITIES = {"critical", "warning", "info"}
#: What Prometheus itself and kube-state-metrics have; everything else is ours.
FOREIGN = re.compile(r"up|ALERTS|kube_\w+")
#: Labels of the process that was scraped.
OF_THE_TARGET = {"namespace", "job", "instance", "pod"}
SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Selection:
    """One selector of an expression: its metric, and the labels that it looks at with their values."""

    metric: str
    labels: tuple[tuple[str, str], ...]


def parsed(expression: str) -> Any:
    """The expression as Prometheus would read it. Raises ValueError."""
    return promql_parser.parse(expression)


def nodes(expression: str) -> list[Any]:
    """Every part of the expression."""
    found: list[Any] = []
    promql_parser.walk(parsed(expression), found.append)
    return found


def selections(expression: str) -> Iterator[Selection]:
    """What it reads."""
    for node in nodes(expression):
        if isinstance(node, promql_parser.VectorSelector):
            yield Selection(node.name or "", tuple((each.name, each.value) for each in node.matchers.matchers))


def grouped_by(expression: str) -> set[str]:
    """The labels that its aggregations keep."""
    kept: set[str] = set()
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            kept.update(node.modifier.labels)
    return kept


@cache
def rules() -> list[dict[str, Any]]:
    """All rules, in order."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by their names."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> dict[str, str]:
    """The recorded series with their expressions."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def sources(expression: str) -> set[str]:
    """The metrics that it comes from, through what is recorded."""
    found = {each.metric for each in selections(expression)}
    return {name for metric in found for name in (sources(recorded()[metric]) if metric in recorded() else {metric})}


@cache
def dashboard(path: Path) -> dict[str, Any]:
    """One of them."""
    loaded = json.loads(path.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def panels(path: Path) -> list[dict[str, Any]]:
    """What is drawn on it."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def queries(path: Path) -> dict[str, str]:
    """The queries of a dashboard by where they stand, as Grafana sends them."""
    found = {f"{panel['title']} {each['refId']}": each["expr"] for panel in panels(path) for each in panel["targets"]}
    found |= {each["name"]: each["expr"] for each in dashboard(path)["annotations"]["list"]}
    for variable in dashboard(path)["templating"]["list"]:
        if asked := re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", "")):
            found[variable["name"]] = asked[1]
    return {where: query.replace("$__rate_interval", "5m") for where, query in found.items()}


@cache
def expressions() -> dict[str, str]:
    """Every expression of rules and dashboards."""
    of_rules = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    return of_rules | {f"{path.stem}: {where}": each for path in DASHBOARDS for where, each in queries(path).items()}


@pytest.mark.parametrize("where", expressions())
def test_every_expression_can_be_read(where: str) -> None:
    """A panel whose query is wrong is an empty panel."""
    assert parsed(expressions()[where]) is not None


# --- what is measured -------------------------------------------------------------------------------------------------


@cache
def documented() -> dict[str, set[str]]:
    """The metrics of the reference with their labels."""
    rows = re.findall(r"^\| `(webex_events_\w+)` \| ([^|]*)\|", REFERENCE.read_text("utf-8"), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


@cache
def bounds() -> dict[str, set[str]]:
    """The bounds of the histograms, as the reference lists them."""
    rows = re.findall(r"`(?:webex_events_)?(\w+_seconds)`(?: \||:) ([0-9., ]+)", REFERENCE.read_text("utf-8"))
    return {f"webex_events_{name}": set(listed.strip(" .").split(", ")) for name, listed in rows}


def family(metric: str) -> str:
    """``…_seconds_bucket`` is of the histogram ``…_seconds``."""
    return next((metric.removesuffix(end) for end in SUFFIXES if metric.removesuffix(end) in bounds()), metric)


def ours(expression: str) -> list[Selection]:
    """What it reads of the program."""
    read = [each for each in selections(expression) if each.metric not in recorded()]
    return [each for each in read if FOREIGN.fullmatch(each.metric) is None]


@pytest.mark.parametrize("where", expressions())
def test_every_metric_is_documented_with_its_labels(where: str) -> None:
    """Nothing is asked for that the program does not have, by no label that it does not have."""
    known = documented()
    for each in ours(expressions()[where]):
        assert family(each.metric) in known
        labels = known[family(each.metric)] | OF_THE_TARGET | ({"le"} if each.metric.endswith("_bucket") else set())
        assert {name for name, _ in each.labels} - labels == set()


@pytest.mark.parametrize("where", expressions())
def test_what_is_kept_is_a_label_of_what_is_read(where: str) -> None:
    """``sum by (reasom)`` would be one nameless sum."""
    known = documented()
    read = {family(each.metric) for each in ours(expressions()[where])}
    has = OF_THE_TARGET | {"le"} | {label for metric in read for label in known.get(metric, ())}

    if not any(FOREIGN.fullmatch(each.metric) for each in selections(expressions()[where])):
        assert grouped_by(expressions()[where]) - has == set()


@pytest.mark.parametrize("where", expressions())
def test_every_bound_is_one_that_the_histogram_has(where: str) -> None:
    """A bucket that does not exist would make an objective that is always missed, or never."""
    for each in ours(expressions()[where]):
        for name, value in each.labels:
            if name == "le":
                assert value.split("|")[0] in bounds()[family(each.metric)]


async def test_every_metric_is_in_a_scrape(tmp_path: Path) -> None:
    """Of ``dev``, which has every role, and of a receiver that has Kafka to think of."""
    async with (
        role("dev", tmp_path / "dev") as everything,
        role("receiver", tmp_path / "receiver", **kafka_settings("127.0.0.1:1", "x.")) as receiver,
    ):
        await everything.start()
        await receiver.start()
        shown = await everything.scraped() + await receiver.scraped()

    there = set(re.findall(r"^# TYPE (\S+) ", shown, re.MULTILINE))
    wanted = {family(each.metric) for expression in expressions().values() for each in ours(expression)}

    assert len(wanted) > 40
    assert wanted - there == set()


# --- alerts -----------------------------------------------------------------------------------------------------------


def promtool(*arguments: str | Path) -> None:
    """Run it; what it complains of is shown."""
    ended = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_takes_the_rules() -> None:
    """Syntax, templates of the annotations, and no rule twice."""
    promtool("check", "rules", RULES)


@pytest.mark.parametrize("file", CASES, ids=lambda path: path.name)
def test_promtool_runs_the_cases(file: Path) -> None:
    """Each alert fires when it should, and is silent when it should."""
    promtool("test", "rules", file)


@dataclass(frozen=True)
class Case:
    """One test of promtool: the alert that it is about, and what it says of it."""

    alert: str
    metrics: set[str]
    asked: list[dict[str, Any]]

    @property
    def labels(self) -> set[str]:
        """The labels that the alert has in it."""
        return {name for ask in self.asked for each in ask["exp_samples"] for name in _labels_of(each["labels"])}


def _labels_of(series: str) -> list[str]:
    return re.findall(r'(\w+)="', series)


@cache
def cases(ending: str, kind: str) -> list[Case]:
    """The tests whose names are an alert's and ``ending``."""
    tests = [test for path in CASES for test in yaml.safe_load(path.read_text("utf-8"))["tests"]]
    return [
        Case(
            alert=test["name"].split()[0],
            metrics={each["series"].partition("{")[0] for each in test["input_series"]},
            asked=test.get(kind, []),
        )
        for test in tests
        if test["name"].split(maxsplit=1)[1].startswith(ending)
    ]


def fires() -> list[Case]:
    """Of each alert one case in which it fires."""
    return cases("fires", "promql_expr_test")


def silences() -> list[Case]:
    """... and those in which it does not."""
    return cases("is silent: ", "alert_rule_test")


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    """One each, which asks for this very alert, and expects it, be it several times."""
    assert sorted(case.alert for case in fires()) == sorted(alerts())
    for case in fires():
        (asked,) = case.asked
        assert asked["expr"] == f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}'
        assert {each["value"] for each in asked["exp_samples"]} == {1}


def test_every_alert_has_a_case_in_which_it_is_silent() -> None:
    """At least one, with values of everything that the alert reads: without them any alert is silent."""
    assert {case.alert for case in silences()} == alerts().keys()
    for case in silences():
        (asked,) = case.asked
        assert asked["alertname"] == case.alert
        assert not asked.get("exp_alerts")
        assert sources(alerts()[case.alert]["expr"]) - case.metrics == set(), case.alert


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_it_is_about(name: str) -> None:
    """Severity, sentences whose labels are there when it fires, a runbook, and where to look."""
    alert = alerts()[name]
    annotations = alert["annotations"]
    (case,) = [case for case in fires() if case.alert == name]
    named = set(re.findall(r"\$labels\.(\w+)", f"{annotations['summary']} {annotations['description']}"))

    assert name.startswith("WebexEvents")
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    assert annotations.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    assert len(annotations["summary"]) <= 100
    assert named - case.labels == set()
    assert annotations["runbook_url"] == f"docs/runbooks/{name}.md"
    assert annotations["dashboard_url"].removeprefix("/d/") in {dashboard(path)["uid"] for path in DASHBOARDS}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """The page is what somebody reads who was just woken up."""
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}

    assert pages == set(alerts())


SECTIONS = ["Meaning", "Impact", "Look", "Causes", "Mend", "Verify"]


@pytest.mark.parametrize("name", alerts())
def test_a_runbook_has_what_one_looks_for(name: str) -> None:
    """The same sections in the same order, commands to begin with, and no novel."""
    page = (RUNBOOKS / f"{name}.md").read_text("utf-8")

    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    assert "```sh\n" in page
    assert len(page.splitlines()) <= 60
    assert f"]({name}.md)" in (RUNBOOKS / "README.md").read_text("utf-8")


@cache
def pages() -> str:
    """Everything that runbooks say."""
    return "\n".join(path.read_text("utf-8") for path in sorted(RUNBOOKS.glob("*.md")))


def commands() -> list[str]:
    """Our command lines in runbooks: of blocks whole lines or what is behind ``--``, of text what stands in backticks."""
    found = re.findall(r"(?:^|^kubectl exec .* -- |`)webex-events ([^`\n…]+)[`\n]", pages(), re.MULTILINE)
    return sorted({re.split(r" [<>|]", command)[0] for command in found})


#: They ask the pod itself, the journal beside it, or Webex with the pod's own token.
OF_A_POD = {"health", "auth", "rejects", "webhooks", "policy check"}


def test_a_pod_is_asked_for_nothing_that_its_account_may_not() -> None:
    """Topics are read by an operator; accounts of receivers and processors may not."""
    in_pods = re.findall(
        r"kubectl exec (?:POD|webex-events-(?:receiver|processor)-0) -- webex-events (\w+ ?\w*)", pages()
    )

    assert len(in_pods) > 20
    assert {each for each in in_pods if not {each.strip(), each.split()[0]} & OF_A_POD} == set()


def test_a_runbook_with_a_line_for_operators_says_so() -> None:
    """Where nobody knows whose account it takes, it is tried with the wrong one."""
    for page in RUNBOOKS.glob("WebexEvents*.md"):
        text = page.read_text("utf-8")
        plain = re.search(r"^webex-events ", text, re.MULTILINE) is not None
        assert plain == ("(README.md#the-command-line)" in text), page.name


def test_each_kind_that_a_cluster_may_not_know_has_a_command_of_its_own() -> None:
    """``kubectl get hpa,scaledobject`` prints nothing at all where one of them is unknown."""
    lists = re.findall(r"kubectl get (\S+,\S+)", pages())

    assert {kind for each in lists for kind in each.split(",")} <= {"pvc", "pods", "statefulset", "deployment"}


@pytest.mark.parametrize("command", commands())
def test_every_command_of_a_runbook_exists(command: str) -> None:
    """With every option that is given: nobody looks for the right one at night."""
    found: Any = get_command(app)
    words = command.split()
    while isinstance(found, Group):
        found = found.commands[words.pop(0)]

    options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word for word in words if re.match(r"--?\w", word)}

    assert given - options == set()


def test_log_lines_and_values_of_runbooks_exist() -> None:
    """`journal.full` is a line of the log, or `receiver.replicas` a value of the chart."""
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "service").rglob("*.py"))
    values = yaml.safe_load((RULES.parents[2] / "values.yaml").read_text("utf-8"))
    named = set(re.findall(r"`([a-z]+\.[a-z_]+|[a-z]\w+\.[a-z]\w+)`", pages()))
    named |= {name for line in re.findall(r"grep -E '([a-z_.|]+)'", pages()) for name in line.split("|")}
    unknown = {name for name in named if f'"{name}' not in sources and not _is_value(values, name)}

    assert len(named) > 30
    assert {name for name in unknown if not name.startswith("data.")} == set()


def _is_value(values: dict[str, Any], path: str) -> bool:
    section, _, name = path.partition(".")
    return isinstance(values.get(section), dict) and name in values[section]


def test_runbooks_name_metrics_that_exist() -> None:
    """In text as well as in queries."""
    known = documented().keys() | recorded().keys()
    for page in RUNBOOKS.glob("*.md"):
        named = set(re.findall(r"\bwebex_events_\w+", page.read_text("utf-8")))
        assert {family(name) for name in named} - known == set(), page.name


# --- dashboards -------------------------------------------------------------------------------------------------------


def test_there_are_three_dashboards() -> None:
    """Three that somebody reads, rather than thirty."""
    assert [path.stem for path in DASHBOARDS] == ["overview", "pipeline", "webex-api"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_keeps_the_conventions(path: Path) -> None:
    """A uid that stays, variables for the source and the target, links to the others, nothing of the Grafana it came from."""
    board = dashboard(path)
    variables = {each["name"]: each for each in board["templating"]["list"]}

    assert board["uid"] == f"webex-events-{path.stem}"
    assert board["title"].startswith("Webex events / ")
    assert "id" not in board
    assert set(re.findall(r'"uid": "([^"]+)"', path.read_text("utf-8"))) == {board["uid"], "${datasource}"}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert variables["datasource"]["query"] == "prometheus"
    assert {variables[name]["allValue"] for name in ("namespace", "job", "instance")} == {".*"}
    assert [link["tags"] for link in board["links"]] == [["webex-events"]]
    assert board["tags"] == ["webex-events"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_panel_says_what_it_shows(path: Path) -> None:
    """A title of its own, a sentence, a unit, legends, and the source that was chosen."""
    drawn = panels(path)

    assert len({panel["title"] for panel in drawn}) == len(drawn)
    assert len({panel["id"] for panel in dashboard(path)["panels"]}) == len(dashboard(path)["panels"])
    for panel in drawn:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(each["legendFormat"] for each in panel["targets"]), panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_panel_shows_what_was_chosen(path: Path) -> None:
    """Every selector of ours goes by the variables; what is recorded has no instances."""
    for panel in panels(path):
        for target in panel["targets"]:
            for each in selections(target["expr"].replace("$__rate_interval", "5m")):
                if FOREIGN.fullmatch(each.metric) is None:
                    chosen = {"namespace": "$namespace", "job": "$job"}
                    chosen |= {} if each.metric in recorded() else {"instance": "$instance"}
                    assert chosen.items() <= dict(each.labels).items(), panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panel_covers_another(path: Path) -> None:
    """Within 24 columns, and each place once."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(path)["panels"]:
        at = panel["gridPos"]
        here = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in here) < 24
        assert not here & taken, panel["title"]
        taken |= here
