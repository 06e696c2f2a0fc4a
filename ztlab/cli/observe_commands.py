"""`ztlab observe`: what every node's data plane does, as it happens, with identities."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ztlab.cli.options import lab_option
from ztlab.errors import NotFound, ZtError
from ztlab.lab.lab import Lab, require_root
from ztlab.lab.names import parse_reference
from ztlab.model.flow import TCP, UDP, protocol_name
from ztlab.model.verdict import Verdict


@click.command("observe")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document per line.")
@lab_option
def observe_command(nodes: tuple[str, ...], as_json: bool, lab_name: str | None) -> None:
    """Watch the events of NODEs (default: all) live, until Ctrl-C.

    Each line: time, node, hook, source identity[tag] -> destination identity[tag], protocol and
    ports, verdict, rule.
    """
    require_root()
    lab, chosen = _choose(nodes, lab_name)
    if not as_json:
        click.echo(f"watching {', '.join(chosen)} of {lab.name}; Ctrl-C ends it", err=True)
    try:
        for node, event in events(lab, chosen):
            if as_json:
                click.echo(json.dumps({"node": node, **event}))
            else:
                click.echo(as_line(node, event, width=max(map(len, chosen))))
    except KeyboardInterrupt:
        return


def _choose(nodes: tuple[str, ...], lab_name: str | None) -> tuple[Lab, tuple[str, ...]]:
    labs = Lab.names()
    references = [parse_reference(node, lab=lab_name, labs=labs) for node in nodes]
    named = {r.lab for r in references if r.lab is not None} | ({lab_name} - {None})
    if len(named) > 1:
        raise ZtError("observe watches one lab at a time")
    lab = Lab.open(next(iter(named), None))
    if not references:
        return lab, tuple(n.name for n in lab.nodes if n.kind == "node")
    for reference in references:
        if lab.node(reference.node).kind != "node":
            raise NotFound(f"{reference.node!r} runs no agent: nothing to observe")
    return lab, tuple(r.node for r in references)


def events(lab: Lab, nodes: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(node, Event of docs/PROTOCOL.md) from every node of NODES as they come, without end.

    Ends when every agent's stream has ended; ZtError if none could be opened.
    """
    children: dict[str, subprocess.Popen[bytes]] = {}
    selector = selectors.DefaultSelector()
    try:
        for node in nodes:
            child = lab.popen(
                node,
                ["zt-agent", "observe", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us; they end with us
            )
            children[node] = child
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ, (node, bytearray()))
        while selector.get_map():
            for key, _ in selector.select():
                node, rest = key.data
                content = os.read(key.fd, 1 << 16)
                if not content:
                    selector.unregister(key.fileobj)
                    _raise_if_failed(node, children[node])
                rest += content
                *lines, remainder = bytes(rest).split(b"\n")
                rest[:] = remainder
                for line in lines:
                    yield node, json.loads(line)
    finally:
        selector.close()
        for child in children.values():
            child.kill()
            child.communicate()


def _raise_if_failed(node: str, child: subprocess.Popen[bytes]) -> None:
    _, said = child.communicate()
    if child.returncode != 0:
        reason = said.decode(errors="replace").strip().removeprefix("error: ")
        raise ZtError(f"{node}: {reason or 'zt-agent observe ended'}")


def as_line(node: str, event: Mapping[str, Any], *, width: int = 0) -> str:
    """One event for people; the verdict in colour (click drops it where there is no terminal)."""
    verdict = str(event.get("verdict"))
    colour = "yellow"
    if verdict in ("allowed", "established"):
        colour = "green"
    elif verdict != "observed":
        colour = "red" if Verdict.from_word(verdict).is_drop else "yellow"
    at = str(event.get("at", ""))
    clock = at.partition("T")[2].rstrip("Z")[:12] or at
    rule = event.get("rule")
    return " ".join(
        (
            f"{clock:<12}",
            f"{node:<{width}}",
            f"{event.get('hook', ''):<7}",
            f"{_end(event, 'source')} → {_end(event, 'destination')}",
            _protocol(event),
            click.style(verdict, fg=colour, bold=True) + (f" by {rule}" if rule else ""),
        )
    ) + _sums(event)


def _sums(event: Mapping[str, Any]) -> str:
    """What a flow record says besides."""
    if event.get("kind") not in ("update", "end"):
        return ""
    return f", {event['kind']}: {event['packets']} packets, {event['length']} B"


def _end(event: Mapping[str, Any], which: str) -> str:
    identity, tag = event.get(f"{which}_identity"), event.get(f"{which}_tag")
    return f"{identity}[{tag}] {event.get(which)}"


def _protocol(event: Mapping[str, Any]) -> str:
    number = int(event.get("protocol") or 0)
    name = protocol_name(number)
    if number in (TCP, UDP):
        return f"{name} {event.get('source_port')}→{event.get('destination_port')}"
    return name
