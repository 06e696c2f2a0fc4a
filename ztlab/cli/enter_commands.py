"""`ztlab exec` and `ztlab shell`: into a node, with nothing in between."""

from __future__ import annotations

import os
import shutil

import click

from ztlab.cli.options import find, lab_option
from ztlab.lab.lab import require_root


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@lab_option
@click.pass_context
def exec_command(
    ctx: click.Context, node: str, command: tuple[str, ...], lab_name: str | None
) -> None:
    """Run COMMAND in NODE: `ztlab exec bob -- zt-agent status`. Its exit code is ours.

    It runs in the node's network, with the node's /run, bpffs, /proc and hosts. `coordinator` and
    `switch` are nodes too.
    """
    require_root()
    lab, name = find(node, lab_name)
    ctx.exit(lab.exec_interactive(name, command))


@click.command("shell")
@click.argument("node")
@lab_option
@click.pass_context
def shell_command(ctx: click.Context, node: str, lab_name: str | None) -> None:
    """Open a shell in NODE; its prompt says which lab and node it is in."""
    require_root()
    lab, name = find(node, lab_name)
    # The user's own settings, then our prompt; read from memory, so nothing stays behind.
    settings = (
        "[ -f ~/.bashrc ] && . ~/.bashrc\n"
        "unset HISTFILE PROMPT_COMMAND\n"
        f"PS1='[{lab.name}/{name}] \\w \\$ '\n"
    )
    if shutil.which("bash") is None:
        ctx.exit(lab.exec_interactive(name, ["sh"], env={"PS1": f"[{lab.name}/{name}] $ "}))
    memory = os.memfd_create("ztlab-shell", 0)
    os.write(memory, settings.encode())
    ctx.exit(
        lab.exec_interactive(
            name, ["bash", "--rcfile", f"/proc/self/fd/{memory}", "-i"], keep_fds=(memory,)
        )
    )
