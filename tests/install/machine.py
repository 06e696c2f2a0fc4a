"""On the machine that tools/test-install.sh boots: install ztlab, and see that it holds.

Started by ztlab-test.service once multi-user.target is reached. The steps of the first boot end
with a reboot, those of the second with the end of the machine. What is said goes to the folder
that the host lent (ztlab.out on the kernel's command line), as does the exit code.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.install import network
from tests.install.documented import HERE, command, run
from tests.install.network import CLIENTS, COORDINATOR, connects, wait_until

OUT = Path("/mnt")
MARK = HERE / "rebooted"
BIN = Path("/opt/ztlab/current/bin")
REMOVE = (str(BIN / "zt-agent"), "remove", "--config", "/etc/zt-agent/agent.toml")
AGENTS = ("zt-agent", "zt-alice", "zt-carol")
SERVICES = ("zt-coordinator", *AGENTS)
BACKUP = "/root/coordinator.tar.gz"
POLICY = {
    "default": "deny",
    "rules": [
        {"id": "alice-to-db", "from": "alice", "to": "db", "proto": "tcp", "ports": [8080]}
        | {"action": "allow"}
    ],
}


def say(text: str) -> None:
    uptime = Path("/proc/uptime").read_text().split()[0]
    with (OUT / "log").open("a") as log:
        log.write(f"{float(uptime):7.1f} s  {text}\n")


# --- what is asked of it, again and again -------------------------------------------------


def api(method: str, path: str, body: object = None, *headers: str) -> dict[str, Any]:
    """An answer of the management API, to the owner, asked with more HEADERS."""
    words = ["curl", "-sS", "--fail-with-body", "--cacert", "/root/authority.pem"]
    words += ["-X", method, "-H", f"Authorization: Bearer {Path('/root/token').read_text()}"]
    for header in headers:
        words += ["-H", header]
    if body is not None:
        words += ["--json", json.dumps(body)]
    answer = command(*words, f"{COORDINATOR}/api/v1/{path}")
    return dict(json.loads(answer)) if answer else {}


def status(service: str) -> dict[str, Any]:
    """`zt-agent status` of the agent under SERVICE."""
    socket = f"/run/{service}/agent.sock"
    return dict(json.loads(command(str(BIN / "zt-agent"), "status", "--json", "--socket", socket)))


def drops_of(identity: str) -> int:
    """Packets of IDENTITY that the gateway dropped because no rule allows them."""
    metrics = command("curl", "-sS", "http://127.0.0.1:9464/metrics")
    labels = rf'zt_drops_total\{{(?=[^}}]*identity="{identity}")(?=[^}}]*reason="no_rule")[^}}]*\}}'
    return sum(int(float(value)) for value in re.findall(rf"(?m)^{labels} (\S+)$", metrics))


def enrolled() -> set[str]:
    nodes = api("GET", "nodes")["items"]
    return {str(node["name"]) for node in nodes}


def has_converged() -> bool:
    seen = api("GET", "network")
    return bool(seen["has_converged"]) and seen["nodes"] == {"total": 3, "converged": 3}


def assert_policy_holds(when: str) -> None:
    """alice comes through, carol does not, and it is the gateway's policy that kept her out."""
    begun = time.monotonic()
    for service in SERVICES:
        wait_until(f"{service} is active", partial(is_active, service))
    wait_until("alice reaches the db", lambda: connects("alice", 2))
    allowed_s = time.monotonic() - begun
    before = drops_of("carol")

    def is_carol_dropped() -> bool:
        assert not connects("carol"), "carol reaches the db, and no rule allows it"
        return drops_of("carol") > before

    # The control: her packets did come through her tunnel, and were judged; if the gateway's end of
    # it was made anew, it takes WireGuard some seconds to see that.
    wait_until("carol's packets are dropped by the gateway", is_carol_dropped)
    assert connects("alice", 2), "alice does not reach the db any more"
    gateway = status("zt-agent")
    assert gateway["authz_mode"] == "enforce" and gateway["belt_installed"], gateway
    assert gateway["identity_drift"] == 0, gateway
    say(f"{when}: alice reaches the db (after {allowed_s:.1f} s), carol does not")


def is_active(service: str) -> bool:
    return shown(service, "ActiveState") == "active"


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return command("systemctl", "show", "--value", f"--property={name}", unit).strip()


# --- the first boot --------------------------------------------------------------------------


def version_in(folder: Path) -> str:
    (wheel,) = folder.glob("*.whl")
    return wheel.name.split("-")[1]


def install(folder: Path) -> None:
    for program in ("coordinator", "agent"):
        begun = time.monotonic()
        run("install", folder, version=version_in(folder), program=program)
        say(f"installed {program} {version_in(folder)} in {time.monotonic() - begun:.1f} s")
    command("systemd-analyze", "verify", "--man=no", "zt-agent.service", "zt-coordinator.service")


def start_coordinator() -> None:
    Path("/etc/zt-coordinator").mkdir()
    hosts = ", ".join(f'"{prefix}.1"' for prefix in CLIENTS.values())
    settings = (
        'state_dir = "/var/lib/zt-coordinator"\nlisten = "0.0.0.0:8443"\n'
        f'names = [{hosts}]\nnetwork = "test"\npools = ["10.77.0.0/16"]\n'
    )
    Path("/etc/zt-coordinator/coordinator.toml").write_text(settings)
    token = run("coordinator").split()[-1]
    Path("/root/token").write_text(token)
    authority = Path("/var/lib/zt-coordinator/authority.pem").read_text()
    Path("/root/authority.pem").write_text(authority)
    # READY means ready: the first request is answered.
    assert api("GET", "network")["name"] == "test"
    say(f"coordinator: {shown('zt-coordinator', 'StatusText')}")
    assert_coordinator_is_nobody()


def assert_coordinator_is_nobody() -> None:
    pid = shown("zt-coordinator", "MainPID")
    about = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"(?m)^Uid:\t(6[1-5]\d{3})\t\1\t", about), about  # a dynamic user's
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"(?m)^{name}:\t0{{16}}$", about), about
    assert re.search(r"(?m)^Seccomp:\t2$", about), about
    key = f"/proc/{pid}/root/var/lib/zt-coordinator/authority.key"
    assert os.stat(key).st_mode & 0o777 == 0, "the service can see the authority's key"


def start_agents() -> None:
    Path("/etc/zt-agent").mkdir()
    Path("/etc/zt-agent/agent.toml").write_text(network.gateway_settings())
    for name in CLIENTS:
        network.prepare_client(name)
    for name, role in (("gw", "gateway"), ("alice", "client"), ("carol", "client")):
        setup_key(name, role)
    run("agent")
    command("systemctl", "enable", "--now", *(f"zt-{name}" for name in CLIENTS))
    wait_until("all are enrolled", lambda: len(enrolled()) == 3)
    api("PUT", "resources/db", {"name": "db", "cidr": "192.0.2.0/24", "gateway": "gw"})
    api("PUT", "policy", POLICY, "If-Match: *")
    wait_until("the network has converged", has_converged)
    assert status("zt-agent")["wireguard"] == status("zt-alice")["wireguard"] == "kernel"
    assert status("zt-carol")["wireguard"] == "userspace"
    assert status("zt-agent")["loader"] == "libbpf"
    assert_agent_has_three_capabilities()
    say(f"agents: {shown('zt-agent', 'StatusText')}")


def setup_key(name: str, role: str) -> None:
    variables = {"token": Path("/root/token").read_text(), "url": COORDINATOR}
    answer = run("setup-key", Path("/root"), node=name, role=role, **variables)
    path = Path(f"/etc/zt-agent/{name}.key")
    path.touch(0o600)
    path.write_text(json.loads(answer)["key"])


def assert_agent_has_three_capabilities() -> None:
    about = Path(f"/proc/{shown('zt-agent', 'MainPID')}/status").read_text()
    three = 1 << 12 | 1 << 38 | 1 << 39  # CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF: linux/capability.h
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert re.search(rf"(?m)^{name}:\t{three:016x}$", about), about
    assert re.search(r"(?m)^Seccomp:\t2$", about), about
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"


def need_each_capability() -> None:
    """Without one of the three the agent does not start, and says what it could not do."""
    three = shown("zt-agent", "CapabilityBoundingSet").split()
    assert sorted(three) == ["cap_bpf", "cap_net_admin", "cap_perfmon"], three
    folder = network.UNITS / "zt-agent.service.d"
    folder.mkdir()
    for missing in three:
        rest = " ".join(name for name in three if name != missing)
        (folder / "less.conf").write_text(
            f"[Service]\nCapabilityBoundingSet=\nCapabilityBoundingSet={rest}\nRestart=no\n"
        )
        command("systemctl", "daemon-reload")
        # What is in force is taken back first: to adopt it asks for less than to load it.
        command("systemctl", "stop", "zt-agent")
        command(*REMOVE)
        command("systemctl", "start", "zt-agent", check=False)
        state, code = shown("zt-agent", "ActiveState"), shown("zt-agent", "ExecMainStatus")
        said = command("journalctl", "-q", "-n", "300", "-o", "cat", "-u", "zt-agent")
        why = re.findall(r"(?m)^error: (.{0,100})", said)
        say(f"without {missing}: {state}, exit code {code}: {why[-1] if why else said}")
        assert state == "failed" and why, said
    command("rm", "-r", str(folder))
    command("systemctl", "daemon-reload")
    command("systemctl", "start", "zt-agent")
    assert_policy_holds("with its three capabilities again")


def restart() -> None:
    command("systemctl", "restart", *AGENTS)
    assert_policy_holds("after a restart of the agents")


def kill() -> None:
    """kill -9: systemd starts it again, and what the kernel had goes on judging meanwhile."""
    before = shown("zt-agent", "MainPID")
    command("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "zt-agent")
    wait_until("it is started again", lambda: shown("zt-agent", "MainPID") not in ("0", before))
    assert_policy_holds("after kill -9 of the gateway's agent")


def lose_the_coordinator() -> None:
    command("systemctl", "stop", "zt-coordinator")
    command("systemctl", "restart", "zt-agent")
    wait_until("alice reaches the db", lambda: connects("alice", 2))
    assert not connects("carol")
    command("systemctl", "start", "zt-coordinator")
    assert_policy_holds("after a restart of the gateway's agent without a coordinator")


def back_up_and_restore() -> None:
    """What was allowed after the backup is denied again: nodes take the older state."""
    run("backup", backup=BACKUP)
    api("PUT", "policy", POLICY | {"default": "allow"}, "If-Match: *")
    wait_until("carol reaches the db", partial(connects, "carol", 2))
    say("after a backup: carol was allowed to reach the db, and does")
    run("restore", backup=BACKUP)
    wait_until("the network has converged", has_converged)
    assert_policy_holds("after the backup was restored")


def upgrade(folder: Path, title: str) -> None:
    version = version_in(folder)
    if title == "upgrade":
        install(folder)
    for program in ("coordinator", "agent"):
        run(title, folder, version=version, program=program)
    command("systemctl", "restart", *(f"zt-{name}" for name in CLIENTS))
    assert_policy_holds(f"after {title} to {version}")
    assert status("zt-agent")["version"] == version


def first_boot() -> None:
    network.lay()
    install(HERE / "release")
    start_coordinator()
    start_agents()
    assert_policy_holds("at first")
    need_each_capability()
    restart()
    kill()
    lose_the_coordinator()
    back_up_and_restore()
    upgrade(HERE / "next", "upgrade")
    upgrade(HERE / "release", "rollback")
    upgrade(HERE / "next", "rollback")  # the way back is the way forth, too: both are installed


# --- the second boot ---------------------------------------------------------------------------


def second_boot() -> None:
    assert_policy_holds("after a reboot")
    assert status("zt-agent")["version"] == version_in(HERE / "next")
    for service in SERVICES:
        assert shown(service, "NRestarts") == "0", f"{service} failed at first after the reboot"
    uninstall()


def uninstall() -> None:
    command("systemctl", "disable", "--now", *(f"zt-{name}" for name in CLIENTS))
    for name in CLIENTS:
        remove = (str(BIN / "zt-agent"), "remove", "--config", f"/etc/zt-agent/{name}.toml")
        command("nsenter", f"--net=/run/netns/{name}", *remove)
        unit = network.UNITS / f"zt-{name}.service"
        command("rm", "-r", str(unit), f"{unit}.d", f"/var/lib/zt-{name}", f"/run/zt-{name}")
    run("uninstall-agent")
    run("uninstall-coordinator")
    left = {
        "interface": command("ip", "-o", "link", "show", "wg0", check=False),
        "tables": "".join(re.findall(r"\bzt_\w+", command("nft", "list", "tables"))),
        "rules": "".join(re.findall(r"107[45]\d:.*", command("ip", "rule"))),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip().strip("0"),
        "pins": command("find", "/sys/fs/bpf", "-path", "*ztlab*"),
        "units": command("systemctl", "list-unit-files", "--no-legend", "zt-*", check=False),
        "files": command("find", "/etc", "/var/lib", "/run", "-name", "zt-*"),
    }
    assert not any(left.values()), left
    say("uninstalled: nothing is left")


# --- the frame -----------------------------------------------------------------------------------


def lent_folder() -> str:
    found = re.search(r"ztlab\.out=(\S+)", Path("/proc/cmdline").read_text())
    assert found, "the kernel's command line names no ztlab.out"
    return found[1]


def attempt(steps: Callable[[], None]) -> int:
    try:
        steps()
        return 0
    except Exception:
        say("FAILED\n" + traceback.format_exc())
        journal = command("journalctl", "--no-pager", "-b", "-o", "short-monotonic", check=False)
        (OUT / "journal").write_text(journal)
        for service in SERVICES:
            words = ("systemctl", "status", "--no-pager", service)
            (OUT / f"{service}.status").write_text(command(*words, check=False))
        return 1


def main() -> int:
    command("mount", "-t", "hostfs", "-o", lent_folder(), "none", str(OUT))
    is_second = MARK.exists()
    systemd = command("systemd-analyze", "time", check=False).splitlines()[:1]
    say(f"kernel {os.uname().release}; {' '.join(systemd)}")
    code = attempt(second_boot if is_second else first_boot)
    if code == 0 and not is_second:
        MARK.touch()
        say("rebooting")
        os.sync()
        command("systemctl", "reboot", "--no-block")
        return 0
    (OUT / "code").write_text(f"{code}\n")
    os.sync()
    command("systemctl", "poweroff", "--no-block")
    return code


if __name__ == "__main__":
    sys.exit(main())
