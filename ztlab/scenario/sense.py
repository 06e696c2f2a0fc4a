"""Contradictions in a scenario whose names are right: it could be built, but not mean anything."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from ztlab.model.codec import did_you_mean
from ztlab.model.policy import Policy, broken_tests
from ztlab.scenario.expect import Expect
from ztlab.scenario.model import NodeSpec, ResourceSpec, Scenario, parse_listener
from ztlab.scenario.steps import Drain, Forge, Probe, SetLocal, Step, Stream, Target, Transfer


def network_faults(scenario: Scenario) -> Iterator[str]:
    """Faults of what is to be built."""
    for name, node in scenario.nodes.items():
        yield from _node_faults(f"nodes.{name}", node)
    for name, lan in scenario.lans.items():
        gateway = scenario.nodes[lan.gateway]
        if gateway.role != "gateway":
            yield f"lans.{name}.gateway: {lan.gateway} has role {gateway.role}, want gateway"
        versions = [ip_network(prefix).version for prefix in lan.prefixes]
        if len(versions) != len(set(versions)) or not versions:
            yield f"lans.{name}.prefixes: want one IPv4 prefix, one IPv6 prefix, or one of each"
    for name, resource in scenario.resources.items():
        yield from _offer_faults(scenario, f"resources.{name}", resource)
        for pool in scenario.pools:
            if _overlap(resource.cidr, pool):
                yield f"resources.{name}.cidr: {resource.cidr} overlaps the tunnel pool {pool}"
    policy = scenario.policy
    meant = Policy(default=policy.default, rules=policy.rules, groups=scenario.groups)
    for line in broken_tests(meant, policy.tests):
        yield f"policy.{line}"


def _offer_faults(scenario: Scenario, path: str, resource: ResourceSpec) -> Iterator[str]:
    """Faults of the gateways that offer RESOURCE: which goes first must be said."""
    offers = [(path, resource.gateway, resource.priority)]
    for i, offer in enumerate(resource.alternatives):
        offers.append((f"{path}.alternatives[{i}]", offer.gateway, offer.priority))
    gateways: set[str] = set()
    priorities: dict[int, str] = {}
    for where, gateway, priority in offers:
        role = scenario.nodes[gateway].role
        if role != "gateway":
            yield f"{where}.gateway: {gateway} has role {role}, want gateway"
        if gateway in gateways:
            yield f"{where}.gateway: {gateway} offers it already"
            continue
        gateways.add(gateway)
        other = priorities.setdefault(priority, gateway)
        if other != gateway:
            yield (
                f"{where}.priority: {priority} is that of gateway {other}, want another "
                f"for gateway {gateway}"
            )


def _overlap(one: str, other: str) -> bool:
    a, b = ip_network(one), ip_network(other)
    return a.version == b.version and a.overlaps(b)


def _node_faults(path: str, node: NodeSpec) -> Iterator[str]:
    if node.kind == "host":
        if node.lan is None:
            yield f"{path}: a host needs a `lan`, it has no other link"
        if node.role != "mesh":
            yield f"{path}.role: a host runs no agent, so it has no role"
        for key in ("identity", "authz_mode", "logging_enabled", "log_granularity"):
            if getattr(node, key) is not None:
                yield f"{path}.{key}: a host runs no agent, so it has no {key}"
    seen: set[str] = set()
    for i, listener in enumerate(node.listen):
        if listener in seen:
            yield f"{path}.listen[{i}]: {listener} stands here twice"
        seen.add(listener)


def listens(scenario: Scenario, target: Target) -> bool:
    """Does somebody answer at TARGET? An address outside the file's names always may."""
    if target.to not in scenario.nodes or target.proto == "icmp":
        return True
    wanted = (target.proto, target.port)
    return wanted in {parse_listener(text) for text in scenario.nodes[target.to].listen}


def step_faults(scenario: Scenario) -> Iterator[str]:
    """Faults of the steps, followed in order: which streams run, who logs at each moment."""
    names: set[str] = set()
    streams: set[str] = set()
    logging = {n: scenario.logs_at_start(n) for n, s in scenario.nodes.items() if s.kind == "node"}
    default = scenario.policy.default
    for i, step in enumerate(scenario.steps):
        path = f"steps[{i}]"
        if step.name in names:
            yield f"{path}.name: two steps are called {step.name!r}"
        names.add(step.name)
        if isinstance(step.action, SetLocal) and step.action.logging_enabled is not None:
            logging[step.action.node] = step.action.logging_enabled
        if isinstance(step.action, Drain):
            gateway = step.action.gateway
            if (role := scenario.nodes[gateway].role) != "gateway":
                yield f"{path}.drain.gateway: {gateway} has role {role}, want gateway"
        yield from _stream_faults(path, step, streams)
        yield from _fitting(path, step)
        yield from _listener_faults(path, step, scenario)
        yield from _log_faults(path, step, logging)
        if step.policy is not None:
            default = step.policy.default or default
            changed = Policy(default=default, rules=step.policy.rules, groups=scenario.groups)
            for line in broken_tests(changed, step.policy.tests):
                yield f"{path}.policy.{line}"


def _stream_faults(path: str, step: Step, streams: set[str]) -> Iterator[str]:
    if isinstance(step.action, Stream):
        if step.action.id in streams:
            yield f"{path}.stream.id: a stream {step.action.id!r} is already running"
        streams.add(step.action.id)
    if step.stop_stream is not None:
        if step.stop_stream not in streams:
            yield (
                f"{path}.stop_stream: no stream {step.stop_stream!r} is running"
                f"{did_you_mean(step.stop_stream, streams)}"
            )
        streams.discard(step.stop_stream)
    for k, item in enumerate(step.expect.stream):
        if item.id not in streams:
            hint = did_you_mean(item.id, streams)
            yield f"{path}.expect.stream[{k}].id: no stream {item.id!r} is running{hint}"


_FITS = {
    "answered": ("probe",),
    "identity": ("probe",),
    "verdict": ("probe",),
    "at": ("probe",),
    "rtt_ms": ("probe",),
    "throughput_mbit": ("transfer",),
    "arrived_as_anybody": ("forge",),
    "converged_within_s": ("policy", "drain"),
    "exit_code": ("run",),
    "stdout_contains": ("run",),
}


def _fitting(path: str, step: Step) -> Iterator[str]:
    """Expectations that only make sense after another action."""
    for key, actions in _FITS.items():
        is_fit = any(getattr(step, action) is not None for action in actions)
        if getattr(step.expect, key) is not None and not is_fit:
            words = " or ".join(f"`{action}`" for action in actions)
            yield f"{path}.expect.{key}: only a step with a {words} can show this"


def _listener_faults(path: str, step: Step, scenario: Scenario) -> Iterator[str]:
    action = step.action
    if not isinstance(action, (Probe, Transfer, Stream)) or listens(scenario, action.target):
        return
    if isinstance(action, Probe) and not step.expect.answered:
        return  # a doubt, not a fault: see doubts.py
    target, word = action.target, type(action).__name__.lower()
    others = ", ".join(scenario.nodes[target.to].listen) or "nothing"
    yield (
        f"{path}.{word}.{target.proto}: nobody listens on {target.proto}/{target.port} "
        f"at {target.to}; it listens on {others}"
    )


def _log_faults(path: str, step: Step, logging: dict[str, bool]) -> Iterator[str]:
    """Expectations of events from a node that does not log at that moment."""
    expect, probe = step.expect, step.probe
    judge = judging_node(expect, probe)
    for key in ("identity", "verdict"):
        if getattr(expect, key) is not None and probe is not None:
            if judge not in logging:
                yield (
                    f"{path}.expect.{key}: {judge} runs no agent; name the node that judges "
                    f"with `at:`"
                )
            elif not logging[judge]:
                yield f"{path}.expect.{key}: {judge} does not log here, so no event can say it"
    for k, item in enumerate(expect.event):
        if item.never_within_s is None and not logging[item.at]:
            yield f"{path}.expect.event[{k}]: {item.at} does not log here, so no event can come"
    for k, record in enumerate(expect.log):
        if record.never_within_s is None and record.node and not logging[record.node]:
            yield f"{path}.expect.log[{k}]: {record.node} does not log here, so no record can come"
    if isinstance(step.action, Forge) and not logging.get(step.action.to, False):
        yield (
            f"{path}.forge.to: {step.action.to} does not log here, so nobody can say what arrived"
        )


def judging_node(expect: Expect, probe: Probe | None) -> str | None:
    """The node whose events say what became of PROBE: `at`, else its destination."""
    return expect.at or (probe.to if probe is not None else None)
