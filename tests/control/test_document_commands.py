"""export, apply, explain, audit: as an operator runs them against a running coordinator."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.control.process import PROGRAM, Coordinator, cli, running
from ztlab.model.management import Offer

TEXT = """\
# who may reach whom
identities: [web, api]
groups: {staff: [web]}
policy:
  rules:
    - {id: web-to-api, from: staff, to: api, proto: tcp, ports: [8080, 9000-9010], action: allow}
  tests:
    - {from: web, to: api, proto: tcp, port: 8080, expect: allow}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def here() -> Iterator[Coordinator]:
    with running() as coordinator:
        coordinator.enrol("gw", role="gateway")
        yield coordinator


@pytest.fixture
def run(here: Coordinator) -> Run:
    """run("export", code=0): the command as the owner."""
    to = ("--url", here.url, "--authority", str(here.directory / "state/authority.pem"))

    def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        token = ("--token-file", str(here.directory / "owner"))
        done = subprocess.run(
            [PROGRAM, *arguments, *to, *token],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def applied(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "network.yaml"
    path.write_text(TEXT)
    run("apply", "-f", str(path), "--yes")
    return path


def test_a_document_is_shown_asked_about_and_applied(
    here: Coordinator, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(TEXT.replace("web-to-api", "first"))
    run("apply", "-f", str(path), "--yes")
    path.write_text(TEXT)

    shown = run("apply", "-f", str(path), "--dry-run", code=4).stdout
    assert "- rule first: {from: staff, to: api, action: allow, proto: tcp, ports" in shown
    assert "+ rule web-to-api: {from: staff, to: api" in shown
    assert "nodes that are told: 1\n  gw: rules +1 -1" in shown
    assert "nobody is there to be asked" in run("apply", "-f", str(path), code=2).stderr
    with closing(here.admin()) as admin:
        assert [rule["id"] for rule in admin.get("/policy")["rules"]] == ["first"]

        said = run("apply", "-f", str(path), "--yes").stdout
        now = admin.network().revision
        assert said == shown + f"applied: revision {now.epoch}/{now.number}\n"
        assert run("apply", "-f", str(path)).stdout == "no change\n"
        assert admin.network().revision == now


def test_what_is_exported_is_applied_without_a_change_and_exported_alike(
    run: Run, applied: Path, tmp_path: Path
) -> None:
    text = run("export").stdout
    out = tmp_path / "exported.yaml"
    run("export", "-o", str(out))

    assert out.read_text() == text and "identities: [api, gw, web]" in text
    assert run("apply", "-f", str(out), "--yes").stdout == "no change\n"
    assert run("export").stdout == text
    json_said = json.loads(run("apply", "-f", str(applied), "--dry-run", "--json").stdout)
    assert json_said["preview"]["change_count"] == 0 and not json_said["is_applied"]


def test_two_gateways_of_a_resource_are_exported_applied_and_compared(
    here: Coordinator, run: Run, applied: Path
) -> None:
    one = "{name: lan, cidr: 192.0.2.0/24, gateway: gw}"
    both = one.replace("}", ", alternatives: [{gateway: gw2, priority: 20}]}")
    second = both.replace("gateway: gw,", "gateway: gw, priority: 30,")
    here.enrol("gw2", role="gateway")

    def write(resource: str) -> None:
        applied.write_text(f"{TEXT}resources:\n  - {resource}\n")

    write(one)
    run("apply", "-f", str(applied), "--yes")
    assert f"  - {one}\n" in run("export").stdout  # what nobody said is not said
    write(both)
    shown = run("apply", "-f", str(applied), "--yes").stdout
    assert "- resource lan: {cidr: 192.0.2.0/24, gateway: gw}" in shown
    assert "+ resource lan: {cidr: 192.0.2.0/24, gateway: gw, alternatives: [{gateway: gw2" in shown
    write(second)
    run("apply", "-f", str(applied), "--yes")
    with closing(here.admin()) as admin:
        (lan,) = admin.resources()
        assert (lan.priority, lan.alternatives) == (30, (Offer(gateway="gw2", priority=20),))
        assert lan.in_use == "gw2"
        admin.drain_gateway("gw2", is_drained=True)
        (lan,) = admin.resources()
        assert lan.in_use == "gw"
        assert [one.name for one in admin.gateways(is_drained=True)] == ["gw2"]
    assert f"  - {second}\n" in (exported := run("export").stdout)
    applied.write_text(exported)
    assert run("apply", "-f", str(applied)).stdout == "no change\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("identities: [web]\nidentities: [api]\n", "the key 'identities' is there twice"),
        ("identitys: [web]\n", 'did you mean "identities"'),
        ("policy: {default: maybe}\n", "policy.default: want allow | deny"),
        ("policy: {rules: [{id: r, from: nobody, to: '*', action: allow}]}\n", "policy.rules[0]"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_with_its_place(
    run: Run, tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    before = run("export").stdout

    said = run("apply", "-f", str(path), "--yes", code=1).stderr

    assert said.startswith("error: ") and fault in said
    assert run("export").stdout == before


def test_an_explanation_is_for_people_and_its_exit_code_for_scripts(
    run: Run, applied: Path
) -> None:
    said = run("explain", "web", "api", "--proto", "tcp", "--port", "8080").stdout
    assert "web -> api tcp 8080: allow" in said and "allowed by rule web-to-api" in said
    assert "allow web-to-api: from staff (group) to api" in said
    assert "no_rule by the default" in run("explain", "api", "web", code=1).stdout
    assert "nobody is called" in run("explain", "x", "web", code=1).stderr
    found = json.loads(run("explain", "web", "api", "--json", code=1).stdout)
    assert found["verdict"] == "some"


def test_the_typed_client_reads_the_past_and_goes_back(here: Coordinator, applied: Path) -> None:
    with closing(here.admin()) as admin:
        then = admin.network().revision
        admin.put_group("staff", ["web", "api"], etag="*")

        assert admin.revision(then).document["groups"] == {"staff": ["web"]}
        (change,) = admin.revision(then, against="present").differences or ()
        assert (change.kind, change.name) == ("group", "staff")
        reached = admin.roll_back(then)

        assert admin.document().value["groups"] == {"staff": ["web"]}
        assert admin.revisions()[0].number == reached.number
        newest = admin.audit(kind="group", name="staff")[0]
        assert newest.actor == "token init" and newest.after == {
            "name": "staff",
            "members": ["web"],
        }


def test_the_log_is_verified_on_the_store_itself(here: Coordinator, applied: Path) -> None:
    head = cli("audit", "head", at=here.directory).stdout.strip()
    said = cli("audit", "verify", "--expect", head, at=here.directory).stdout
    assert said.startswith("intact: ") and head in said

    done = subprocess.run(
        [str(PROGRAM), "audit", "verify", "--expect", "f" * 64, "--json"]
        + ["--config", str(here.directory / "coordinator.toml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not json.loads(done.stdout)["is_intact"]
