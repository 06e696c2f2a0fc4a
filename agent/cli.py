"""zt-agent: the daemon, and the commands that speak to it.

Only what a command needs is imported: `set` must not wait for pyroute2 and bcc.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from agent import control
from ztlab.clikit import ZtGroup, echo_json
from ztlab.errors import HostUnfit, ZtError

_PATH = click.Path(exists=True, dir_okay=False, path_type=Path)
_SOCKET = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    default=control.default_socket,
    help="The daemon's control socket.  [default: $ZT_AGENT_SOCKET, /run/zt-agent/agent.sock]",
)


@click.group(cls=ZtGroup)
@click.version_option(package_name="ztlab")
def main() -> None:
    """The data plane of one node: WireGuard, identity, policy, logs."""


@main.command()
@click.option("--config", "config_path", type=_PATH, required=True, help="agent.toml")
@click.option("--standalone", type=_PATH, help="Take the whole state from this file (YAML, JSON).")
@click.option("--remove-on-exit", is_flag=True, help="Take everything back at the end.")
@click.option("--verbose", is_flag=True, help="Log details.")
def run(config_path: Path, standalone: Path | None, remove_on_exit: bool, verbose: bool) -> None:
    """Run the agent in the foreground.

    When it ends, tunnel and programs stay in force, and the next one takes them over.
    """
    from agent.serve import serve
    from ztlab import log

    log.setup("zt-agent", verbose=verbose)
    serve(config_path, standalone_path=standalone, remove_on_exit=remove_on_exit)


@main.command("remove")
@click.option("--config", "config_path", type=_PATH, required=True, help="agent.toml")
@click.option("--stale", is_flag=True, help="Only pins of network namespaces that are gone.")
@click.option("--yes", is_flag=True, help="With --stale: remove them without asking.")
def remove_command(config_path: Path, stale: bool, yes: bool) -> None:
    """Take back what a stopped agent left in force: interface, programs, belt, routes, sysctls.

    The node's key and its last good configuration stay. With --stale this node is left as it is,
    whether its agent runs or not.
    """
    from agent.removal import remove
    from ztlab import log

    if yes and not stale:
        raise click.UsageError("--yes goes with --stale")
    log.setup("zt-agent", verbose=False)
    if stale:
        _remove_stale(config_path, yes=yes)
        return
    complaints = remove(config_path)
    if complaints:
        raise ZtError("; ".join(complaints), hint="the rest was removed; try again as root")
    click.echo("removed")


def _remove_stale(config_path: Path, *, yes: bool) -> None:
    from agent.removal import find_stale, remove_stale

    found = find_stale(config_path)
    for each in found:
        click.echo(f"{each.directory}: {each.interface} in net:[{each.namespace}]")
    if not found:
        click.echo("no pins of a network namespace that is gone")
        return
    if not yes:
        click.confirm("These namespaces are not seen anywhere. Remove their pins?", abort=True)
    stay = [f"{each.directory} stays: {why}" for each in found if (why := remove_stale(each))]
    if stay:
        raise ZtError("; ".join(stay), hint="the rest was removed")
    click.echo("removed")


@main.command()
@_SOCKET
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def status(socket_path: Path, as_json: bool) -> None:
    """Show what the agent is and does."""
    found = control.ask(socket_path, {"do": "status"})
    if as_json:
        echo_json(found)
    else:
        click.echo("\n".join(_status_lines(found)))


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(["libbpf", "bcc"]))
@click.option("--json", "as_json", is_flag=True, help="A list, as JSON.")
def loaders(names: tuple[str, ...], as_json: bool) -> None:
    """Try which loaders of the TC programs work here (all, or NAMES); `auto` takes the first.

    They are loaded into the kernel and let go; no interface is touched. Exit code 3 if none works.
    """
    from dataclasses import asdict

    from agent.datapath.loader import try_out
    from agent.datapath.marks import MarkLayout
    from agent.settings import DEFAULT_MARK_MASK

    marks = MarkLayout.from_mask(DEFAULT_MARK_MASK)
    trials = [try_out(name, marks) for name in names or ("libbpf", "bcc")]
    if as_json:
        echo_json([asdict(trial) for trial in trials])
    else:
        for trial in trials:
            outcome = f"works, {trial.seconds:.2f} s" if trial.works else trial.found
            click.echo(f"{trial.loader:<6}  {outcome}")
            if trial.hint:
                click.echo(f"{'':<6}  -> {trial.hint}")
    if not any(trial.works for trial in trials):
        raise HostUnfit("no loader of the TC programs works here", hint="see above for each")


@main.command("apply")
@click.argument("file", type=_PATH)
@_SOCKET
def apply_command(file: Path, socket_path: Path) -> None:
    """Give a standalone agent a new whole state."""
    from agent.standalone import load

    # Read here, not by the daemon: relative paths and unreadable files are this user's.
    from ztlab.model import codec

    request = {"do": "apply", "config": codec.encode(load(file))}
    applied = control.ask(socket_path, request, answer_s=control.APPLY_S)
    click.echo(f"applied, revision {applied['number']}")


@main.group("set", cls=ZtGroup)
def set_group() -> None:
    """Change a local switch; it survives a restart."""


@set_group.command("authz-mode")
@click.argument("mode", type=click.Choice(["observe", "enforce"]))
@_SOCKET
def set_authz_mode(mode: str, socket_path: Path) -> None:
    """Judge packets and drop (enforce), or only look (observe)."""
    control.ask(socket_path, {"do": "set-authz-mode", "mode": mode})
    click.echo(f"authz_mode is {mode}")


@set_group.command("logging")
@click.argument("state", type=click.Choice(["on", "off"]))
@_SOCKET
def set_logging(state: str, socket_path: Path) -> None:
    """Log flows, or do not."""
    control.ask(socket_path, {"do": "set-logging", "enabled": state == "on"})
    click.echo(f"logging is {state}")


@main.command("rotate-key")
@click.option(
    "--wait",
    "wait_s",
    type=click.IntRange(1, 3600),
    default=30,
    show_default=True,
    help="Seconds for peers that do not answer; then it goes on without them.",
)
@_SOCKET
def rotate_key(wait_s: int, socket_path: Path) -> None:
    """Change the node's WireGuard key; its identity, addresses and connections stay.

    The agent does it: interrupting this command, or the agent, does not end it.
    """
    control.ask(socket_path, {"do": "rotate-key", "wait_s": wait_s})
    said = ""
    while not (found := control.ask(socket_path, {"do": "rotation"}))["outcome"]:
        line = _rotation_line(found)
        if line != said:
            click.echo(line)
        said = line
        time.sleep(0.1)
    if found["outcome"] == "undone":
        raise ZtError(f"the key stays as it was: {found['error']}")
    if found["without"]:
        click.echo(
            f"not waited for: {', '.join(found['without'])}; no tunnel with them until they "
            "reach the coordinator",
            err=True,
        )
    click.echo(f"the key was changed, client ID {found['client_id']}")


def _rotation_line(found: dict[str, Any]) -> str:
    if found["error"]:
        return f"held up, trying on: {found['error']}"
    if found["waiting_for"]:
        return f"announced {found['next_id']}; waiting for {', '.join(found['waiting_for'])}"
    if found["stage"] == "switched":
        return f"in use: {found['client_id']}; peers are told"
    return f"announcing {found['next_id']}" if found["next_id"] else "begun"


@main.command()
@_SOCKET
@click.option("--json", "as_json", is_flag=True, help="One Event per line, as in docs/PROTOCOL.md.")
def observe(socket_path: Path, as_json: bool) -> None:
    """Show events live, until interrupted."""
    for event in control.observe(socket_path):
        if "lost" in event:
            click.echo(f"{event['lost']} events lost so far: this reader is too slow", err=True)
        elif as_json:
            click.echo(json.dumps(event))
        else:
            click.echo(_event_line(event))


def _event_line(event: dict[str, Any]) -> str:
    source = f"{event['source_identity']}({event['source_tag']}) {event['source']}"
    target = f"{event['destination_identity']}({event['destination_tag']}) {event['destination']}"
    ports = ""
    if event["source_port"] or event["destination_port"]:
        ports = f" {event['source_port']}>{event['destination_port']}"
    rule = f" rule {event['rule']}" if event["rule"] else ""
    return (
        f"{event['at']} {event['hook']:7} {event['verdict']:12} {source} -> {target} "
        f"proto {event['protocol']}{ports} {_size(event)}{rule}"
    )


def _size(event: dict[str, Any]) -> str:
    if event["kind"] in ("flow", "packet"):
        return f"{event['length']} B"
    return f"{event['length']} B in {event['packets']} packets: {event['kind']}"


def _status_lines(found: dict[str, Any]) -> Iterable[str]:
    revision = found["revision"]
    coordinator = found["coordinator"]
    yield f"node        {found['name']} ({found['role'] or 'not configured yet'})"
    yield f"client ID   {found['client_id']}"
    rotation = found["rotation"]
    if rotation and rotation["stage"] != "none":
        yield f"new key     {_rotation_line(rotation)}"
    yield f"addresses   {', '.join(found['addresses']) or 'none'}"
    yield f"wireguard   {found['interface']}, {found['wireguard']}"
    yield f"datapath    {found['loader']} ({found['loader_reason']})"
    yield f"attached    {_attached(found['attached'])}"
    yield f"authz_mode  {found['authz_mode']}{_belt(found)}"
    logging = "on" if found["logging_enabled"] else "off"
    sink = found["log_sink"]
    to = f", to {sink['endpoint']}" if sink else ""
    yield f"logging     {logging} ({found['log_granularity']}){to}"
    yield (
        f"revision    {revision['number']} of {revision['epoch']}"
        if revision
        else "revision    none"
    )
    if coordinator:
        yield f"coordinator {coordinator['url']}, {_session(coordinator)}"
    else:
        yield "coordinator none: standalone"
    if found["last_refusal"]:
        yield f"refused     {found['last_refusal']}"
    for peer in found["peers"]:
        seen = peer["last_handshake_at"] or "never"
        yield f"peer        {peer['name']} at {peer['endpoint'] or '-'}, handshake {seen}"


def _attached(hooks: dict[str, bool]) -> str:
    return ", ".join(name for name, attached in hooks.items() if attached) or "nowhere"


def _belt(found: dict[str, Any]) -> str:
    return " (belt installed)" if found["belt_installed"] else ""


def _session(coordinator: dict[str, Any]) -> str:
    if coordinator["is_connected"]:
        return "connected"
    state = "enrolled, not connected" if coordinator["is_enrolled"] else "not enrolled"
    return f"{state} ({coordinator['last_error']})" if coordinator["last_error"] else state
