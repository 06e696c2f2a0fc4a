"""coordinator.toml is read strictly; the documented example is a good one."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from coordinator import clock, privileges, settings, setup, tls
from tests.unit.coordinator import networks
from ztlab.errors import SchemaError, ZtError

DOCUMENT = Path(__file__).parents[3] / "docs/CONFIGURATION.md"
PG = settings.POSTGRES
GOOD = """
state_dir = "/var/lib/zt-coordinator"
listen = "[::1]:8443"
names = ["::1"]
network = "n"
pools = ["10.77.0.0/16"]
"""


def load(tmp_path: Path, text: str) -> settings.Settings:
    path = tmp_path / "coordinator.toml"
    path.write_text(text)
    return settings.load(path)


def _keys(text: str) -> set[str]:
    return set(re.findall(r"^(\w+) =", text, re.MULTILINE))


def test_the_documented_file_is_what_is_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "zt-coordinator" in block]
    read = load(tmp_path, text)
    assert read.address == ("198.18.0.1", 8443)
    assert read.database_url == "sqlite:////var/lib/zt-coordinator/ztlab.db"
    top, _, limits = text.partition("[limits]")
    assert _keys(top) == set(settings.Settings.__dataclass_fields__) - {"limits"}
    assert _keys(limits) == set(settings.Limits.__dataclass_fields__)
    assert read.limits == settings.Limits(), "the documented limits are the defaults"


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    read = load(tmp_path, GOOD)
    assert read.database_url == "sqlite:////var/lib/zt-coordinator/ztlab.db"
    assert (read.token_ttl_s, read.user, read.address) == (3600, None, ("::1", 8443))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('network = "n"', "", "network: missing"),
        ("names", "nmes", 'did you mean "names"'),
        ('["10.77.0.0/16"]', '["10.77.0.1/16"]', "canonical form"),
        ('["10.77.0.0/16"]', '["10.77.0.0/16", "10.0.0.0/8"]', "overlap"),
        ('["10.77.0.0/16"]', "[]", "at least one pool"),
        ('["10.77.0.0/16"]', '["10.77.0.0/31"]', "no room"),
        ("[::1]:8443", "::1", "want [IPV6]:PORT"),
        ('network = "n"', 'network = "n"\ndatabase = "mysql://x"', "sqlite:///PATH"),
        ('network = "n"', 'network = "n"\ndatabase = "sqlite:///"', "path of a file"),
        ('network = "n"', 'network = "n"\ndatabase = "sqlite:///:memory:"', "path of a file"),
        ('network = "n"', f'network = "n"\ndatabase = "{PG}zt:pw@h/n"', "want no password in it"),
        ('network = "n"', f'network = "n"\ndatabase = "{PG}h/n?password=pw"', "no password"),
        ('network = "n"', f'network = "n"\ndatabase = "{PG}zt@h"', "name of a database"),
        ("names = [", 'names = ["bürg", ', "DNS names, got 'bürg'"),
        ('network = "n"', 'network = "n"\nauthz_mode = "observe"', "authz_mode: unknown key"),
        ('network = "n"', 'network = "n"\ntoken_ttl_s = 1', "10 to 86400"),
        ('network = "n"', "network =", "coordinator.toml"),
    ],
)
def test_a_fault_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(SchemaError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert said in str(caught.value) and "coordinator.toml" in str(caught.value)


def test_a_password_is_not_repeated_and_a_server_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SchemaError) as caught:
        load(tmp_path, GOOD + f'database = "{PG}zt:hunter2@h/n"\n')
    assert "hunter2" not in str(caught.value)
    url = f"{PG}zt@h/n?passfile=/etc/zt-coordinator/pgpass"
    read = load(tmp_path, GOOD + f'database = "{url}"\n')
    assert (read.database_url, read.database_file) == (url, None)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ZtError, match="cannot read"):
        settings.load(tmp_path / "none.toml")


def test_whom_to_become_is_a_name_or_a_number_and_never_root() -> None:
    assert privileges.account("nobody").uid == privileges.account(65534).uid == 65534
    assert privileges.account(54321) == privileges.Account(54321, 54321, "54321")
    for root in ("root", 0, "0"):
        with pytest.raises(ZtError, match="does not run as root"):
            privileges.account(root)
    with pytest.raises(ZtError) as caught:
        privileges.account("no-such-user")
    assert "useradd" in caught.value.hint


def test_a_changed_name_makes_a_new_certificate_of_the_same_authority(tmp_path: Path) -> None:
    files = tls.TlsFiles(tmp_path)
    tls.prepare(tmp_path, ("127.0.0.1",))
    before = [path.read_bytes() for path in (files.authority, files.server)]
    tls.prepare(tmp_path, ("127.0.0.1",))
    assert [path.read_bytes() for path in (files.authority, files.server)] == before
    tls.prepare(tmp_path, ("127.0.0.1", "coordinator"))
    assert files.authority.read_bytes() == before[0]
    assert files.server.read_bytes() != before[1]
    assert files.server.read_bytes().endswith(before[0])  # the chain that is served


def test_a_damaged_certificate_is_made_anew_and_a_damaged_authority_is_said(
    tmp_path: Path,
) -> None:
    tls.prepare(tmp_path, ("localhost",))
    files = tls.TlsFiles(tmp_path)
    files.server.write_text("half of")
    tls.prepare(tmp_path, ("localhost",))
    assert tls.expires_at(files.server) > clock.now()
    files.authority.write_text("half of")
    with pytest.raises(ZtError, match="authority .* is damaged"):
        tls.prepare(tmp_path, ("elsewhere",))


def test_one_init_waits_for_the_other(tmp_path: Path) -> None:
    wanted = networks.settings(tmp_path)
    second = threading.Thread(target=setup.initialise, args=(wanted,))
    with tls.alone(tmp_path):
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive() and not tls.TlsFiles(tmp_path).authority_key.exists()
    second.join(timeout=20)
    assert tls.TlsFiles(tmp_path).authority.exists()


def test_the_authority_is_constrained() -> None:
    from tempfile import TemporaryDirectory

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    with TemporaryDirectory() as name:
        tls.prepare(Path(name), ("127.0.0.1", "coordinator"))
        authority = x509.load_pem_x509_certificate(tls.read_authority(Path(name)).encode())
        server = x509.load_pem_x509_certificate(tls.TlsFiles(Path(name)).server.read_bytes())
        modes = {p.name: p.stat().st_mode & 0o777 for p in Path(name).glob("*.key")}
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value == x509.BasicConstraints(True, 0)
    key = authority.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    assert 3650 <= (authority.not_valid_after_utc - authority.not_valid_before_utc).days <= 3653
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["coordinator"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert modes == {"authority.key": 0o600, "server.key": 0o600}
