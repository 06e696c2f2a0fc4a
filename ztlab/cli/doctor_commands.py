"""`ztlab doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from ztlab.cli.options import json_option
from ztlab.clikit import echo_json
from ztlab.errors import HostUnfit
from ztlab.lab import host

_NOTES = (
    "A node's BPF pins (/sys/fs/bpf), its agent's socket (/run/zt-agent) and its hosts file are "
    "visible only from inside: use `ztlab exec NODE -- …`. `ip netns exec LAB.NODE` shows the "
    "node's network alone.",
)
_COLOURS = {"ok": "green", "missing": "red", "optional": "yellow"}


@click.command("doctor")
@json_option
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine has and lacks for a lab, and how to get it.

    Exit code 3 if something that every lab needs is missing.
    """
    checks = host.examine()
    fit = host.is_fit(checks)
    if as_json:
        echo_json({"fit": fit, "checks": [asdict(c) for c in checks], "notes": list(_NOTES)})
        ctx.exit(0 if fit else HostUnfit.exit_code)
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = click.style(f"{check.status:<8}", fg=_COLOURS[check.status])
        click.echo(f"{status}  {check.name:<{width}}  {check.found}")
        if check.hint:
            click.echo(f"{'':<8}  {'':<{width}}  -> {check.hint}")
    click.echo()
    for note in _NOTES:
        click.echo(f"note: {note}")
    if not fit:
        lacking = [check.name for check in checks if check.status == "missing"]
        raise HostUnfit(f"this machine lacks {', '.join(lacking)}", hint="see above for each")
    click.echo("\nthis machine can run a lab")
