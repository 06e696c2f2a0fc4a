"""Enrol the Vagrantfile's production machines: what an administrator does once they are installed.

    .venv/bin/python -m vagrant.enrol

The coordinator gets the scenario's identities, resources and policy, each agent the setup key it
waits for; then every machine learns the others' names. Returns when all have converged and the
tunnel stands. Safe to repeat.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from vagrant.remote import RemoteLab, wait_for
from ztlab.errors import ZtError
from ztlab.lab.addressing import bare
from ztlab.model.management import ANY_TAG
from ztlab.scenario.samples import parse_metrics

METRICS_URL = "http://127.0.0.1:9464/metrics"
_MARK = "# ztlab: "


def main() -> None:
    """Enrol them; a ZtError is two lines and its exit code."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            lab = RemoteLab(Path(directory))
            try:
                enrol(lab)
            finally:
                lab.close()
        except ZtError as error:
            print(f"error: {error}\n hint: {error.hint}", file=sys.stderr)
            sys.exit(error.exit_code)


def enrol(lab: RemoteLab) -> None:
    """All of LAB, step by step."""
    lab.set_clocks()
    admin, scenario = lab.admin(), lab.scenario
    there = {node.name for node in admin.nodes() if node.revoked_at is None}
    admin.put_document({"identities": list(scenario.all_identities())}, etag=ANY_TAG)
    keys = {}
    for plan in scenario.plan().nodes:
        if plan.kind == "node" and plan.name not in there:
            made = admin.create_setup_key(name=plan.name, role=plan.role, identity=plan.identity)
            keys[plan.name] = str(made.key)
    admin.put_document(scenario.document(), etag=ANY_TAG)
    for node, key in keys.items():
        write = ["install", "-m", "600", "/dev/stdin", "/etc/zt-agent/setup-key"]
        lab.on(lab.node(node).machine, write, input=key + "\n", check=True)
        print(f"{node}: its setup key is on {lab.node(node).machine}", flush=True)
    wait_for("every node has converged", lambda: have_converged(lab), timeout_s=180)
    print("converged", flush=True)
    tell_names(lab)
    for agent in lab.agents:
        wait_for(f"{agent.name} has a handshake", partial(shakes, lab, agent.name), timeout_s=60)
    print("the tunnel stands", flush=True)


def have_converged(lab: RemoteLab) -> bool:
    """Has every agent enrolled and acknowledged what it should have?"""
    nodes = {node.name: node for node in lab.admin().nodes() if node.revoked_at is None}
    return all(n.name in nodes and nodes[n.name].has_converged for n in lab.agents)


def shakes(lab: RemoteLab, node: str) -> bool:
    """Did NODE ever complete a handshake?"""
    metrics = parse_metrics(lab.http_get(node, METRICS_URL))
    return metrics.total("zt_peer_last_handshake_seconds", {}) > 0


def tell_names(lab: RemoteLab) -> None:
    """Every machine's /etc/hosts: agents by tunnel address, hosts by the one behind the gateway."""
    tunnel = {node.name: bare(node.addresses[0]) for node in lab.admin().nodes()}
    lines = [f"{tunnel.get(node.name, node.lan)} {node.name} {_MARK}" for node in lab.nodes]
    program = (
        "import sys, pathlib\n"
        "hosts = pathlib.Path('/etc/hosts')\n"
        f"kept = [l for l in hosts.read_text().splitlines() if {_MARK!r} not in l + ' ']\n"
        "hosts.write_text('\\n'.join([*kept, *sys.stdin.read().splitlines()]) + '\\n')\n"
    )
    for machine in lab.machines:
        lab.on(machine, ["python3", "-c", program], input="\n".join(lines), check=True)


if __name__ == "__main__":
    main()
