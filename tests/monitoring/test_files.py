"""The dashboard and the alert rules in docs/monitoring: what they read exists, and the real tools take them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from bot.telemetry import metrics
from engine.core.stats import STEP_BOUNDS, WAIT_BOUNDS, EngineStats, Histogram
from engine.server.metrics import Metrics
from tests.monitoring.promql import label_values, metric_names

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "docs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
GIVEN = {"job", "instance"}
"""Labels that Prometheus itself adds."""
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed; it is in Debian's package prometheus"
)


def pages() -> str:
    """Everything that /metrics of a bot with our own engine has."""
    histograms = Histogram(STEP_BOUNDS), Histogram(WAIT_BOUNDS), Histogram(WAIT_BOUNDS)
    stats = EngineStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, *histograms, rank_memory=(1,))
    metrics.INFO.labels("0", "sqlite", "own").set(1)
    own = metrics.prometheus.generate_latest(metrics.REGISTRY).decode()
    return own + Metrics(lambda: stats).render().decode()


def series() -> dict[str, list[dict[str, str]]]:
    """The labels of each series, by its name."""
    found: dict[str, list[dict[str, str]]] = {"up": [{}]}
    for family in text_string_to_metric_families(pages()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def queries() -> Iterator[tuple[str, str]]:
    """(panel, expression) of the dashboard, with values in place of its variables."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", "guildllama")
            yield panel["title"], expression.replace("$instance", ".*")


def expressions() -> Iterator[tuple[str, str]]:
    yield from queries()
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)


def test_what_dashboard_and_alerts_read_exists() -> None:
    known = series()
    used = {name for _, expression in expressions() for name in metric_names(expression)}
    assert used - known.keys() == set()
    assert len(used) > 40
    for where, expression in expressions():
        for name, label, value in label_values(expression):
            if label not in GIVEN and name in known and name != "guildllama_bot_info":
                assert value in {labels.get(label) for labels in known[name]}, (where, name, label, value)
        for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
            labels = {label.strip() for label in grouping.split(",")} - GIVEN
            have = [set(each) for name in metric_names(expression) for each in known[name]]
            assert all(any(label in each for each in have) for label in labels), (where, grouping)


def test_the_check_itself_finds_what_does_not_exist() -> None:
    assert metric_names('sum by (job) (rate(a_total{x=~"b|c"}[5m])) / b_total > 0.5 and on (job) c offset 5m') == {
        "a_total", "b_total", "c",
    }  # fmt: skip
    assert list(label_values('a{x=~"b|c", y!="d"}')) == [("a", "x", "b"), ("a", "x", "c"), ("a", "y", "d")]


def test_grafana_knows_every_key_of_the_dashboard() -> None:
    """Grafana's own model keeps what it knows and drops the rest."""
    plugins.register_default_plugins()
    assert list(_dropped(DASHBOARD, _as_grafana(DASHBOARD))) == []
    wrong: dict[str, Any] = json.loads(json.dumps(DASHBOARD))
    wrong["panels"][1]["gridpos"] = wrong["panels"][1].pop("gridPos")
    assert list(_dropped(wrong, _as_grafana(wrong))) == [".panels[1].gridpos"]


def _as_grafana(dashboard: dict[str, Any]) -> Any:
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def _dropped(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from _dropped(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _dropped(one, other, f"{path}[{index}]")
    elif given != kept:
        yield path


def test_panels_have_ids_places_and_words_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & covered, panel["title"]
        covered |= cells
        assert panel["type"] == "row" or panel["description"]
        for target in panel.get("targets", []):
            assert 'job="$job"' in target["expr"], panel["title"]  # two bots of one Prometheus do not mix


def test_each_alert_is_explained() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    for rule in RULES:
        assert f"| `{rule['alert']}` |" in text, rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
    explained = set(re.findall(r"\| `(Guildllama\w+)` \|", text))
    assert explained == {rule["alert"] for rule in RULES}


def test_each_number_is_explained() -> None:
    """Those of the bot in monitoring.md, those of the engine in http-api.md."""
    texts = (ROOT / "docs" / "monitoring.md").read_text()
    names = {family.name.removeprefix("guildllama_bot_") for family in metrics.REGISTRY.collect()}
    missing = [name for name in names if not name.startswith("process_") and f"`{name}" not in texts]
    assert missing == []


@promtool
def test_promtool_takes_the_rules_and_the_example_configuration() -> None:
    _promtool("check", "rules", "--lint-fatal", str(FOLDER / "alerts.yml"))
    _promtool("check", "config", str(FOLDER / "prometheus.yml"))


@promtool
def test_promtool_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in _promtool("check", "rules", str(file))


@promtool
def test_promtool_finds_nothing_to_improve_in_the_page() -> None:
    _promtool("check", "metrics", text=pages())


@promtool
def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    assert "SUCCESS" in _promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))


@promtool
def test_every_alert_has_a_case_in_which_it_fires() -> None:
    tests = Path(__file__).with_name("alerts_test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', tests)) == {rule["alert"] for rule in RULES}


def _promtool(*arguments: str, text: str = "") -> str:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
