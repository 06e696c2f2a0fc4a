"""`ztlab ui`: the pages of a lab's coordinator, in this machine's browser."""

from __future__ import annotations

import signal

import click

from ztlab.cli.options import lab_option
from ztlab.cli.signals import terminated_as_interrupted
from ztlab.lab.control import owner_token_path
from ztlab.lab.forward import coordinator_port
from ztlab.lab.lab import Lab, require_root


@click.command("ui")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Default: a free one.")
@lab_option
def ui_command(port: int, lab_name: str | None) -> None:
    """Lead a loopback port to the coordinator's pages, until Ctrl-C.

    The browser warns of the certificate: its authority is the lab's own.
    """
    require_root()
    lab = Lab.open(lab_name)
    try:
        with terminated_as_interrupted(), coordinator_port(lab, port) as found:
            click.echo(f"https://127.0.0.1:{found}/ui/")
            click.echo(f"log in with the token in {owner_token_path(lab.name)}; Ctrl-C ends it")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return
