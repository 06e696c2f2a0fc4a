"""Do what a step says, as an operator would: real clients, `zt-agent set`, the management API."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ztlab.errors import ZtError
from ztlab.lab.pace import scaled
from ztlab.lab.plan import Listener
from ztlab.model.codec import encode
from ztlab.model.management import ANY_TAG
from ztlab.scenario import probe as probe_program
from ztlab.scenario import rawsend
from ztlab.scenario.read import Reader
from ztlab.scenario.samples import ActionResult, FlowKey
from ztlab.scenario.steps import (
    Drain,
    Forge,
    PolicyChange,
    Probe,
    RunCommand,
    SetLocal,
    Step,
    Stream,
    Transfer,
)
from ztlab.scenario.watch import Child, EchoStream, script

if TYPE_CHECKING:
    from ztlab.lab.lab import Lab
    from ztlab.model.config import Revision

ANSWER_S, SILENCE_S = 5.0, 0.9  # how long a probe waits; see steps.Probe
_COMMAND_S = 20.0


def perform(lab: Lab, step: Step, reader: Reader) -> ActionResult:
    """Do STEP's action in LAB; ZtError if it could not be done at all."""
    began_at = time.monotonic()
    match step.action:
        case Probe() as action:
            result = _probe(lab, action, is_answer_expected=bool(step.expect.answered))
        case Transfer() as action:
            result = _transfer(lab, action)
        case Stream() as action:
            result = _stream(lab, action, reader)
        case SetLocal() as action:
            result = _set(lab, action)
        case PolicyChange() as action:
            result = _policy(lab, action)
        case Drain() as action:
            result = _drain(lab, action)
        case Forge() as action:
            result = _forge(lab, action, reader)
        case RunCommand() as action:
            result = _run(lab, action)
        case str(stream):
            if stream not in reader.streams:
                raise ZtError(f"the stream {stream} could not be begun")
            reader.streams.pop(stream).close()
            result = _done()
        case None:
            result = _done()
    return replace(result, began_at=began_at)


def _done(**fields: Any) -> ActionResult:
    """A result whose moment is now."""
    now = time.monotonic()
    return ActionResult(began_at=now, done_at=now, **fields)


def _probe(lab: Lab, action: Probe, *, is_answer_expected: bool) -> ActionResult:
    target = action.target
    # Silence takes no longer on a slow machine: SYNs are repeated after a second of the clock.
    timeout_s = action.timeout_s or (scaled(ANSWER_S) if is_answer_expected else SILENCE_S)
    argv = [*script(probe_program.__file__), "--to", target.to, "--family", str(target.family)]
    argv += ["--icmp"] if target.proto == "icmp" else [f"--{target.proto}", str(target.port)]
    argv += ["--count", str(action.count), "--timeout", str(timeout_s)]
    argv += ["--source", action.source] if action.source else []
    done = lab.run(action.source_node, argv, timeout_s=timeout_s + _COMMAND_S, check=True)
    seen = json.loads(done.stdout)
    flows = tuple(
        FlowKey(
            source=local[0],
            destination=seen["destination"],
            protocol=seen["protocol"],
            source_port=local[1],
            destination_port=seen["port"],
        )
        for local in seen["flows"]
    )
    more = f" and {len(flows) - 1} more" if len(flows) > 1 else ""
    resolved = f"{flows[0]}{more}" if flows else f"-> {seen['destination'] or 'no address'}"
    return _done(resolved=resolved, flows=flows, probe=seen)


def _transfer(lab: Lab, action: Transfer) -> ActionResult:
    port = str(action.tcp)
    with lab.pause_listener(action.to, Listener(proto="tcp", port=action.tcp)):
        server = Child(lab, action.to, ("iperf3", "-s", "-1", "-p", port, "--forceflush"))
        try:
            number = 0
            while "listening" not in server.line(number, timeout_s=5.0):
                number += 1
            client = ["iperf3", "-c", action.to, f"-{action.family}", "-p", port, "--json"]
            client += ["-t", str(action.seconds), "--connect-timeout", f"{scaled(3000):.0f}"]
            done = lab.run(action.source_node, client, timeout_s=action.seconds + _COMMAND_S)
        finally:
            server.close()
    return _measured(done)


def _measured(done: subprocess.CompletedProcess[str]) -> ActionResult:
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return _done(exit_code=done.returncode or 1, stdout=done.stdout + done.stderr)
    ends = report.get("start", {}).get("connected", [])
    resolved = "".join(
        f"{e['local_host']}:{e['local_port']} -> {e['remote_host']}:{e['remote_port']}"
        for e in ends[:1]
    )
    received = report.get("end", {}).get("sum_received", {}).get("bits_per_second")
    error = str(report.get("error", ""))
    return _done(
        resolved=resolved,
        exit_code=done.returncode or int(bool(error)),  # with --json iperf3 fails with 0
        stdout=error,
        mbit=None if received is None else received / 1e6,
    )


def _stream(lab: Lab, action: Stream, reader: Reader) -> ActionResult:
    stream = EchoStream(lab, action)
    reader.streams[action.id] = stream
    return _done(resolved=str(stream.flow), flows=(stream.flow,))


def _set(lab: Lab, action: SetLocal) -> ActionResult:
    set_local(lab, action)
    return _done()


def set_local(lab: Lab, action: SetLocal) -> None:
    """Throw a node's switches; ZtError with what the agent said if it will not."""
    words = []
    if action.authz_mode is not None:
        words.append(("authz-mode", action.authz_mode.word))
    if action.logging_enabled is not None:
        words.append(("logging", "on" if action.logging_enabled else "off"))
    for switch, value in words:
        argv = ["zt-agent", "set", switch, value]
        lab.run(action.node, argv, timeout_s=_COMMAND_S, check=True)


def _policy(lab: Lab, action: PolicyChange) -> ActionResult:
    admin = lab.admin()
    default = action.default or admin.policy()["default"]
    body = {
        "default": default,
        "rules": encode(action.rules),
        "tests": encode(action.tests),
        "quotas": encode(action.quotas),
    }
    began_at = time.monotonic()
    revision = admin.put_policy(body, etag=ANY_TAG)
    return _taken(revision, began_at)


def _drain(lab: Lab, action: Drain) -> ActionResult:
    admin = lab.admin()
    began_at = time.monotonic()
    revision = admin.drain_gateway(action.gateway, is_drained=action.is_drained)
    return _taken(revision, began_at)


def _taken(revision: Revision, began_at: float) -> ActionResult:
    """The management API took a change, asked for at BEGAN_AT, just now."""
    took_ms = (time.monotonic() - began_at) * 1000
    return _done(
        resolved=f"revision {revision.number}, taken in {took_ms:.0f} ms",
        revision=(revision.epoch, revision.number),
    )


def _run(lab: Lab, action: RunCommand) -> ActionResult:
    done = lab.run(action.node, action.argv, timeout_s=action.timeout_s)
    return _done(exit_code=done.returncode, stdout=done.stdout + done.stderr)


def _forge(lab: Lab, action: Forge, reader: Reader) -> ActionResult:
    target = action.target
    node = action.source_node
    destination = _resolve(lab, node, target.to, target.family)
    truth = lab.call(node, partial(_own_address, destination))
    lie = _resolve(lab, node, action.as_, target.family)
    if lie == truth:
        raise ZtError(f"{node} already has {lie}: nothing would be forged")
    first = random.randint(20000, 29000)  # below the ephemeral range: no other flow has these
    control = _key(truth, destination, target.protocol, first, target.port)
    forged = tuple(
        _key(lie, destination, target.protocol, first + 1 + i, target.port)
        for i in range(action.count)
    )
    before = _drops(reader, node), _receive_errors(lab, target.to)
    _send_raw(lab, node, target.proto, control, 1)
    _send_raw(lab, node, target.proto, forged[0], action.count)
    after = _drops(reader, node), _receive_errors(lab, target.to)
    return _done(
        resolved=f"as {lie}, truly {truth}, -> {destination} port {target.port}",
        forged=forged,
        control=control,
        notes=(
            f"sent past {node}'s own egress program, which dropped {after[0] - before[0]:g} of "
            f"them; {target.to}'s wg0 counts {after[1] - before[1]} more receive errors",
        ),
    )


def _key(source: str, destination: str, protocol: int, port: int, to: int | None) -> FlowKey:
    return FlowKey(
        source=source,
        destination=destination,
        protocol=protocol,
        source_port=port,
        destination_port=to or 0,
    )


def _resolve(lab: Lab, node: str, name: str, family: int) -> str:
    """NAME as NODE itself resolves it."""

    def look_up() -> str:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        return str(socket.getaddrinfo(name, None, kind, socket.SOCK_DGRAM)[0][4][0])

    try:
        return lab.call(node, look_up)
    except OSError as error:
        raise ZtError(f"{node}: cannot resolve {name}: {error}") from None


def _own_address(destination: str) -> str:
    """The source address this machine would use towards DESTINATION."""
    kind = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as sock:
        sock.connect((destination, 9))
        return str(sock.getsockname()[0])


def _send_raw(lab: Lab, node: str, proto: str, first: FlowKey, count: int) -> None:
    argv = [*script(rawsend.__file__), "--source", first.source]
    argv += ["--destination", first.destination, f"--{proto}", str(first.destination_port)]
    argv += ["--source-port", str(first.source_port), "--count", str(count)]
    lab.run(node, argv, timeout_s=_COMMAND_S, check=True)


def _drops(reader: Reader, node: str) -> float:
    return reader.metrics(node).total("zt_drops_total", {"hook": "egress"})


def _receive_errors(lab: Lab, node: str) -> int:
    done = lab.run(node, ["ip", "-j", "-s", "link", "show", "dev", "wg0"], timeout_s=5, check=True)
    return int(json.loads(done.stdout)[0]["stats64"]["rx"]["errors"])
