"""The runner on real labs: what does not hold is found out, and what it changed is put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.e2e.commands import ztlab
from ztlab.lab import build
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled
from ztlab.scenario.loading import from_data
from ztlab.scenario.report import Report
from ztlab.scenario.run import run
from ztlab.scenario.samples import parse_metrics

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

ALLOW = {
    "id": "web-to-api",
    "from": "web",
    "to": "api",
    "proto": "tcp",
    "ports": [8080],
    "action": "allow",
}
NETWORK: dict[str, Any] = {
    "name": "judge",
    "nodes": {
        "alice": {"identity": "web"},
        "bob": {"identity": "api", "listen": ["tcp/8080", "udp/5353"]},
        "carol": {"identity": "guest"},
    },
    "policy": {"default": "deny", "rules": [ALLOW]},
}
ALICE = {"from": "alice", "to": "bob", "tcp": 8080}
CAROL = {"from": "carol", "to": "bob", "tcp": 8080}
DATAGRAMS = {"from": "carol", "to": "bob", "udp": 5353, "count": 5}
NO_RULE = {"at": "bob", "identity": "guest", "reason": "no_rule"}

# What is not so, and how many of its checks must say so. Everything else about the step is so.
FALSE: dict[str, tuple[dict[str, Any], int]] = {
    "carol is answered": ({"probe": {**CAROL, "timeout_s": 0.5}, "expect": {"answered": True}}, 1),
    "alice is not": ({"probe": ALICE, "expect": {"answered": False}}, 1),
    "alice is a guest": ({"probe": ALICE, "expect": {"identity": "guest"}}, 1),
    "she was only observed": ({"probe": ALICE, "expect": {"verdict": "observed"}}, 1),
    "a deny rule did it": (
        {
            "probe": DATAGRAMS,
            "expect": {
                "answered": False,
                "drop": {**NO_RULE, "reason": "deny_rule", "within_s": 0.5},
            },
        },
        2,
    ),
    "four of five were dropped": (
        {"probe": DATAGRAMS, "expect": {"answered": False, "drop": {**NO_RULE, "count": 4}}},
        1,
    ),
    "six of five were dropped": (
        {
            "probe": DATAGRAMS,
            "expect": {"answered": False, "drop": {**NO_RULE, "count": 6, "within_s": 0.5}},
        },
        1,
    ),
    "nothing was counted": (
        {
            "probe": CAROL,
            "expect": {"metric": {"at": "bob", "name": "zt_drops_total", "unchanged": True}},
        },
        1,
    ),
    "no event came": (
        {"probe": CAROL, "expect": {"event": {"at": "bob", "never_within_s": 1}}},
        1,
    ),
    "nothing was logged": (
        {"probe": CAROL, "expect": {"log": {"identity": "guest", "never_within_s": 4}}},
        1,
    ),
    "the forgery arrived": (
        {
            "forge": {"from": "carol", "as": "alice", "to": "bob", "tcp": 8080},
            "expect": {"arrived_as_anybody": True},
        },
        1,
    ),
    "a denied stream lives": (
        {
            "stream": {"id": "d", "from": "carol", "to": "bob", "udp": 5353},
            "expect": {"stream": {"id": "d", "is_alive": True}},
        },
        1,
    ),
    "an allowed stream stops by itself": (
        {
            "stream": {"id": "a", **ALICE},
            "expect": {"stream": {"id": "a", "stops_within_s": 1}},
        },
        1,
    ),
    "iperf3 is faster than light": (
        {
            "transfer": {**ALICE, "seconds": 1},
            "expect": {"throughput_mbit": {"at_least": 1e9}},
        },
        1,
    ),
    "iperf3 may pass where policy denies it": ({"transfer": {**CAROL, "seconds": 1}}, 1),
    "false is true": (
        {"run": {"node": "bob", "command": ["false"]}, "expect": {"exit_code": 0}},
        1,
    ),
    "no program hangs there": (
        {"expect": {"tc": {"at": "bob", "hook": "egress", "present": False, "within_s": 0.5}}},
        1,
    ),
    "another program hangs there": (
        {"expect": {"tc": {"at": "bob", "hook": "egress", "program": "mine", "within_s": 0.5}}},
        1,
    ),
}


def ran(lab: Lab, *steps: dict[str, Any]) -> Report:
    """STEPS of NETWORK, run in LAB."""
    return run(from_data({**NETWORK, "steps": list(steps)}), lab=lab)


@pytest.fixture
def lab(lab_name: str) -> Lab:
    return build.up(from_data({**NETWORK, "steps": []}).plan(lab_name))


def test_what_is_not_so_is_found_out_and_nothing_else_is_blamed(lab: Lab) -> None:
    report = ran(lab, *({"name": name, **step} for name, (step, _) in FALSE.items()))
    text = report.as_text()
    for step in report.steps:
        assert step.error == "", text
        failed = [check.text for check in step.checks if not check.holds]
        assert len(failed) == FALSE[step.name][1], f"{step.name}: {failed}\n{text}"
    assert report.failures == len(FALSE)


def test_what_cannot_be_done_is_said_and_the_rest_still_runs(lab: Lab) -> None:
    report = ran(
        lab,
        {"name": "denied", "stream": {"id": "s", **CAROL}},
        {"name": "missing", "run": {"node": "bob", "command": ["no-such-command"]}},
        {"name": "fine", "probe": ALICE, "expect": {"answered": True}},
    )
    denied, missing, fine = report.steps
    assert "cannot talk to bob port 8080" in denied.error
    assert "no command 'no-such-command'" in missing.error
    assert fine.passed


def test_a_standing_lab_is_as_it_was_when_the_steps_are_done(lab: Lab) -> None:
    admin = lab.admin()
    policy = admin.policy()
    lab.run("bob", ["zt-agent", "set", "logging", "off"], check=True)
    report = ran(
        lab,
        {"name": "log", "set": {"node": "bob", "logging_enabled": True, "authz_mode": "observe"}},
        {"name": "close", "policy": {"default": "deny", "rules": []}},
        {
            "name": "and fail",
            "run": {"node": "bob", "command": "exit 1"},
            "expect": {"exit_code": 0},
        },
    )
    assert [step.passed for step in report.steps] == [True, True, False], report.as_text()
    assert admin.policy() == policy
    metrics = parse_metrics(lab.metrics("bob"))
    assert metrics.total("zt_logging_enabled", {}) == 0
    assert metrics.total("zt_authz_enforce", {}) == 1
    left = [p.argv for p in lab.processes() if any("echo.py" in word for word in p.argv)]
    assert left == []


def test_the_command_judges_a_standing_lab_and_writes_its_reports(lab: Lab, tmp_path: Path) -> None:
    path, xml = tmp_path / "judge.yaml", tmp_path / "report.xml"
    steps = [
        {"name": "holds", "probe": ALICE, "expect": {"answered": True, "verdict": "allowed"}},
        {"name": "does not", "probe": ALICE, "expect": {"identity": "guest"}},
    ]
    path.write_text(yaml.safe_dump({**NETWORK, "steps": steps}))
    done = ztlab("test", str(path), "--lab", lab.name, "--json", "--junit", str(xml))
    assert done.returncode == 1, done.stderr
    (report,) = json.loads(done.stdout)
    assert [step["passed"] for step in report["steps"]] == [True, False]
    assert report["lab"] == lab.name
    (suite,) = ElementTree.parse(xml).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert lab.status == "up"

    shown = ztlab("test", str(path), "--lab", lab.name)
    assert shown.returncode == 1
    assert "✓ holds" in shown.stdout and "✗ does not" in shown.stdout
    assert "only allowed ingress web" in shown.stdout

    path.write_text(yaml.safe_dump({**NETWORK, "nodes": {"dave": {}}, "policy": {}, "steps": []}))
    other = ztlab("test", str(path), "--lab", lab.name)
    assert other.returncode == 1
    assert "is not one of this scenario: it has no node dave" in other.stderr


def test_a_lab_is_kept_if_asked_for_and_only_then(lab_name: str, tmp_path: Path) -> None:
    path = tmp_path / "judge.yaml"
    step = {"name": "holds", "probe": ALICE, "expect": {"answered": True}}
    path.write_text(yaml.safe_dump({**NETWORK, "steps": [step]}))
    kept = ztlab("test", str(path), "--name", lab_name, "--keep")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert Lab.names() == (lab_name,)
    assert Lab.open(lab_name).status == "up"
    ztlab("down", lab_name)
    gone = ztlab("test", str(path), "--name", lab_name)
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert Lab.names() == ()


def test_the_fixture_builds_labs_for_a_users_own_tests(state_dir: Path, ztlab_lab: Any) -> None:
    one = ztlab_lab({**NETWORK, "steps": []})
    with one.connect("alice", ("bob", 8080), timeout=scaled(5)) as connection:
        assert b'"node": "bob"' in connection.recv(200)
    assert Lab.names() == (one.name,)
