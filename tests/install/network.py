"""The network of the test, remade at each boot, and what is sent through it.

    alice (client) ──198.18.1.0/24──┐                       ┌── db, 192.0.2.10:8080 (no agent)
                                    ├── this machine: gw ───┤      knows nothing of any of this
    carol (client) ──198.18.2.0/24──┘   coordinator, gateway└──192.0.2.0/24, the resource `db`

alice and carol run the same agent under the same unit, each in a network namespace of its own;
alice's WireGuard is the kernel's, carol's is wireguard-go.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.install.documented import block, command

UNITS = Path("/etc/systemd/system")
CLIENTS = {"alice": "198.18.1", "carol": "198.18.2"}
COORDINATOR = "https://198.18.1.1:8443"
DB, DB_PORT = "192.0.2.10", 8080
_BACKEND = {"alice": "kernel", "carol": "userspace"}
_DEADLINE_S = 60.0
_REFUSED_S = 5.0  # how long a denied connection is given; an allowed one takes 0.1 s

_MAKE = """#!/bin/bash
set -euo pipefail
join() { # NAMESPACE PREFIX HOST
    ip netns add "$1"
    ip link add "$1" type veth peer name eth0 netns "$1"
    ip addr add "$2.1/24" dev "$1"
    ip link set "$1" up
    ip -n "$1" addr add "$2.$3/24" dev eth0
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
}
join alice 198.18.1 2
join carol 198.18.2 2
join db 192.0.2 10
ip -n alice route add default via 198.18.1.1
ip -n carol route add default via 198.18.2.1
"""
_NETWORK_UNIT = """[Unit]
Description=The test's network
Before=network-online.target zt-coordinator.service zt-agent.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash /root/install/network.sh
[Install]
WantedBy=multi-user.target
"""
_DB_UNIT = """[Unit]
Description=What lies behind the gateway
After=test-network.service
[Service]
Type=exec
NetworkNamespacePath=/run/netns/db
ExecStart=/usr/bin/python3 -m http.server --bind 192.0.2.10 --directory /root/install/release 8080
[Install]
WantedBy=multi-user.target
"""
_CLIENT_DROP_IN = """[Unit]
Requires=test-network.service
After=test-network.service zt-coordinator.service
[Service]
NetworkNamespacePath=/run/netns/{name}
"""


def lay() -> None:
    """Make the network and the machine behind the gateway, now and at each boot."""
    Path("/root/install/network.sh").write_text(_MAKE)
    (UNITS / "test-network.service").write_text(_NETWORK_UNIT)
    (UNITS / "test-db.service").write_text(_DB_UNIT)
    command("systemctl", "daemon-reload")
    command("systemctl", "enable", "--now", "test-network", "test-db")


def agent_settings(name: str, backend: str, *, endpoint: str | None = None) -> str:
    """agent.toml as documented, but for what is this machine's."""
    text = block("agent.toml").replace('name = "bob"', f'name = "{name}"')
    text = text.replace("https://coordinator.example.net:8443", COORDINATOR)
    text = text.replace("/etc/zt-agent/setup-key", f"/etc/zt-agent/{name}.key")
    wireguard = f'backend = "{backend}"\n'
    if endpoint:
        wireguard += f'endpoint = "{endpoint}"\n'
    return text.replace('endpoint = "198.51.100.20:51820"\n', wireguard)


def gateway_settings() -> str:
    """The one of the machine itself; the LAN behind it needs no route back."""
    text = agent_settings("gw", "kernel", endpoint="198.18.1.1:51820")
    return text + "\n[gateway]\nforwarding = true\nmasquerade = true\n"


def prepare_client(name: str) -> None:
    """A second and third agent beside the machine's: a copy of its unit, as documented."""
    unit = (UNITS / "zt-agent.service").read_text()
    for key in ("RuntimeDirectory", "StateDirectory"):
        unit = unit.replace(f"{key}=zt-agent\n", f"{key}=zt-{name}\n")
    unit = unit.replace("/run/zt-agent/bpf", f"/run/zt-{name}/bpf")
    unit = unit.replace("/etc/zt-agent/agent.toml", f"/etc/zt-agent/{name}.toml")
    (UNITS / f"zt-{name}.service").write_text(unit)
    folder = UNITS / f"zt-{name}.service.d"
    folder.mkdir(exist_ok=True)
    (folder / "place.conf").write_text(_CLIENT_DROP_IN.format(name=name))
    settings = f'state_dir = "/var/lib/zt-{name}"\nrun_dir = "/run/zt-{name}"\n'
    Path(f"/etc/zt-agent/{name}.toml").write_text(settings + agent_settings(name, _BACKEND[name]))
    command("systemctl", "daemon-reload")


def connects(name: str, timeout_s: float = _REFUSED_S) -> bool:
    """Does a TCP connection from NAME's namespace to what lies behind the gateway come about?"""
    program = f"import socket; socket.create_connection(({DB!r}, {DB_PORT}), {timeout_s}).close()"
    words = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", program]
    return subprocess.run(words, capture_output=True).returncode == 0


def wait_until(claim: str, holds: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
    """Poll HOLDS; AssertionError with CLAIM where it does not come true in time."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {claim}"
        time.sleep(0.2)
