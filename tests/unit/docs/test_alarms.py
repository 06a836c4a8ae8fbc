"""Prometheus rules: well-formed, about metrics that exist, and each with a page for the person who is woken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).parents[3] / "docs"
GROUPS = yaml.safe_load((DOCS / "alarms.rules.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
PAGE = (DOCS / "alarms.md").read_text()
KNOWN = dict(re.findall(r"^\| `(phalanx_\w+)` \| (\w+) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE))
SECTIONS = {text.split("\n", 1)[0].strip(): text for text in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_whole(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Phalanx[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    assert set(rule["annotations"]) == {"summary", "description"}
    expression = rule["expr"]
    for pair in ("()", "{}", "[]"):
        assert expression.count(pair[0]) == expression.count(pair[1]), expression


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_about_metrics_that_exist(rule: dict[str, Any]) -> None:
    named = re.findall(r"phalanx_\w+", rule["expr"])
    assert named or "up{" in rule["expr"]
    for name in named:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in KNOWN or KNOWN.get(base) == "histogram", f"{name} is no metric of docs/metrics.md"
        kind = KNOWN.get(name, "histogram")
        if re.search(rf"(rate|increase)\(\s*{name}\b", rule["expr"]):
            assert kind in {"counter", "histogram"}, f"{name} is a {kind}: rates are for counters"
        elif kind == "counter":
            pytest.fail(f"{name} is a counter and is used without a rate")


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_has_its_page(rule: dict[str, Any]) -> None:
    section = SECTIONS[rule["alert"]]
    assert section.split("\n\n")[1].startswith(rule["labels"]["severity"]), "the page says another severity"
    first, do = re.search(r"- First look: (.+?)\n- Do(.+)", section, re.DOTALL).groups()  # type: ignore[union-attr]
    assert "`" in first, "a first look is a command or a metric"
    assert do.strip()


def test_the_page_has_nothing_else() -> None:
    assert SECTIONS.keys() == {rule["alert"] for rule in RULES}
    assert len(RULES) == len({rule["alert"] for rule in RULES})


@pytest.mark.parametrize("name", re.findall(r"phalanx_[a-z_]+", PAGE))
def test_metrics_in_the_page_exist(name: str) -> None:
    assert name in KNOWN
