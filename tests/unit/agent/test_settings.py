"""agent.toml is read strictly, and the local switches are the node's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.settings import LocalSwitches, OtlpSettings, Settings, load
from ztlab.errors import SchemaError
from ztlab.model.verdict import AuthzMode

MINIMAL = 'name = "bob"\nauthz_mode = "enforce"\nlogging_enabled = true\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def settings(tmp_path: Path) -> Settings:
    return load(written(tmp_path, MINIMAL + f'state_dir = "{tmp_path}"\n'))


def test_the_documented_file_is_read_as_documented(tmp_path: Path) -> None:
    document = Path(__file__).parents[3] / "docs" / "CONFIGURATION.md"
    text = document.read_text().partition("```toml\n")[2].partition("```")[0]

    found = load(written(tmp_path, text))

    assert found.name == "bob"
    assert found.authz_mode is AuthzMode.ENFORCE
    assert found.logging_enabled is True
    assert found.coordinator is not None and found.coordinator.url == "https://198.18.0.1:8443"
    assert found.datapath.mark_mask == 0xFF002000
    assert found.wireguard.endpoint == "198.18.0.3:51820"
    assert found.log.buffer_bytes == 6 * 2**20


def test_what_the_document_calls_defaults_are_the_defaults(tmp_path: Path) -> None:
    document = Path(__file__).parents[3] / "docs" / "CONFIGURATION.md"
    text = document.read_text().partition("```toml\n")[2].partition("```")[0]
    documented = load(written(tmp_path, text))
    least = load(written(tmp_path, MINIMAL))
    assert least.log == replace(documented.log, otlp=None)
    otlp = documented.log.otlp
    assert otlp is not None and OtlpSettings(endpoint=otlp.endpoint) == replace(
        otlp, ca_file=None, certificate=None, private_key=None, headers_file=None
    )
    assert least.metrics == documented.metrics
    assert least.datapath == documented.datapath
    assert least.gateway == documented.gateway
    assert least.log_granularity == documented.log_granularity


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("logging_enabled = true\n", "authz_mode: missing"),
        ('authz_mode = "enforce"\n', "logging_enabled: missing"),
        (MINIMAL + "colour = 1\n", "colour: unknown key"),
        (MINIMAL.replace("enforce", "enforced"), 'did you mean "enforce"'),
        (MINIMAL + "[wireguard]\nlisten_port = 70000\n", "wireguard.listen_port: want a port"),
        (MINIMAL + '[log]\nsink = "otlp"\n', "log: sink is otlp: want"),
        (MINIMAL + '[log]\nsink = "syslog"\n', "log.sink: want"),
        (MINIMAL + '[log.otlp]\nendpoint = "http://c.example"\n', "must not be told in the clear"),
        (MINIMAL + '[log.otlp]\nendpoint = "https://a:b@c.example"\n', "log.otlp.endpoint: want"),
        (MINIMAL + '[log.otlp]\nendpoint = "c.example:4318"\n', "log.otlp.endpoint: want"),
        (MINIMAL + '[wireguard]\nbackend = "kernl"\n', 'did you mean "kernel"'),
        (MINIMAL + "[wireguard]\nmtu = 500\n", "want an MTU from 1280"),
        (MINIMAL + '[coordinator]\nurl = "http://x"\nsetup_key_file = "k"\n', "want https://"),
        (MINIMAL + "[log]\nflush_share = 2.0\n", "want a share"),
        (MINIMAL + "[datapath]\nmark_mask = 0x50001000\n", "want a mark mask of one judged bit"),
        ("authz_mode =\n", "not TOML"),
    ],
)
def test_a_fault_names_file_and_path(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SchemaError) as caught:
        load(path)
    assert all(problem.startswith(str(path)) for problem in caught.value.problems)
    assert complaint in str(caught.value)


def test_on_and_off_are_switch_positions_too(tmp_path: Path) -> None:
    text = MINIMAL.replace("logging_enabled = true", 'logging_enabled = "off"')
    assert load(written(tmp_path, text)).logging_enabled is False


def test_a_switch_that_was_set_survives_a_restart_and_leaves_the_other_alone(
    tmp_path: Path,
) -> None:
    first = LocalSwitches(settings(tmp_path))
    assert first.overridden == ()
    first.set_authz_mode(AuthzMode.OBSERVE)

    second = LocalSwitches(settings(tmp_path))
    assert second.current.authz_mode is AuthzMode.OBSERVE
    assert second.current.logging_enabled is True
    assert second.overridden == ("authz_mode",)
    second.set_logging(False)

    third = LocalSwitches(settings(tmp_path))
    assert third.current.authz_mode is AuthzMode.OBSERVE
    assert third.current.logging_enabled is False
    assert (tmp_path / "local.json").stat().st_mode & 0o777 == 0o600


def test_a_damaged_override_stops_the_agent_rather_than_relaxing_it(tmp_path: Path) -> None:
    (tmp_path / "local.json").write_text("{half")
    with pytest.raises(SchemaError, match=r"local\.json"):
        LocalSwitches(settings(tmp_path))


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://c.example", "https://c.example/v1/logs"),
        ("https://c.example:4318/", "https://c.example:4318/v1/logs"),
        ("https://c.example/otlp/v1/logs", "https://c.example/otlp/v1/logs"),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/logs"),
        ("http://[::1]:4318/x?y=z", "http://[::1]:4318/x?y=z"),
        ("http://localhost:4318", "http://localhost:4318/v1/logs"),
    ],
)
def test_a_collector_is_named_with_or_without_a_path(
    tmp_path: Path, endpoint: str, url: str
) -> None:
    text = f'[log]\nsink = "otlp"\n[log.otlp]\nendpoint = "{endpoint}"\n'
    found = load(written(tmp_path, MINIMAL + text)).log.otlp
    assert found is not None and found.url == url
    assert url.endswith(found.target) and found.target.startswith("/")
