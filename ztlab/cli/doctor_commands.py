"""`ztlab doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from ztlab.cli.options import json_option
from ztlab.clikit import echo_json
from ztlab.errors import HostUnfit
from ztlab.lab import host
from ztlab.lab.host import Check

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
    checks = (*host.examine(), _kernel_wireguard())
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


def _kernel_wireguard() -> Check:
    """Whether the kernel's own WireGuard can be had: here, or in a guest."""
    from ztlab.vm import kernels, qemu

    name = "kernel WireGuard"
    if kernels.running().features.wireguard:
        return Check(name=name, status="ok", found="the running kernel's")
    try:
        uml = [kernel for kernel in kernels.uml() if kernel.features.wireguard]
    except HostUnfit as error:
        return Check(name=name, status="optional", found=str(error), hint=error.hint)
    stock = [kernel for kernel in kernels.stock() if kernel.features.wireguard]
    if uml:
        found = f"in a guest: `ztlab vm run`, `ztlab test --kernel`; uml, {uml[-1].release}"
    elif stock and not qemu.why_not():
        found = f"in a guest: `ztlab vm run`, `ztlab test --kernel`; qemu, {stock[-1].release}"
    else:
        return Check(
            name=name,
            status="optional",
            found="not here, and no guest that has it",
            hint="ztlab vm build-uml, or see docs/VM.md",
        )
    return Check(name=name, status="ok", found=found)
