"""zt-coordinator: parse, call one function, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from coordinator import settings
from coordinator.audit_commands import audit_group
from coordinator.network_commands import apply_command, explain_command, export_command
from ztlab import log
from ztlab.clikit import ZtGroup, echo_json
from ztlab.model import codec

if TYPE_CHECKING:
    from coordinator.authority import Progress
    from ztlab.model.management import AdminRole

_config = click.option(
    "--config",
    "config",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="coordinator.toml (docs/CONFIGURATION.md).",
)


@click.group(cls=ZtGroup)
@click.version_option(package_name="ztlab")
def main() -> None:
    """The control plane of a WireGuard zero-trust network."""
    os.umask(0o077)  # whatever this program writes is for itself alone


for _command in (export_command, apply_command, explain_command, audit_group):
    main.add_command(_command)


@main.command("init")
@_config
@click.option(
    "--owner-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a fresh owner token to this file (0600), for scripts.",
)
def init_command(config: Path, owner_token_file: Path | None) -> None:
    """Make store, TLS authority and server certificate, as far as they are missing."""
    from coordinator.setup import initialise

    initialise(settings.load(config), owner_token_file)


@main.command("run")
@_config
@click.option("--verbose", is_flag=True, help="Log what is only interesting when it fails.")
def run_command(config: Path, verbose: bool) -> None:
    """The service, in the foreground."""
    # First of all, and before anything else is imported: streams are greenlets.
    from gevent import monkey

    monkey.patch_all()
    read = settings.load(config)
    # Where the operator stands may be closed to the user it becomes, and gunicorn looks at that
    # directory as soon as it is imported. Every path in the settings is absolute.
    os.chdir("/")
    from coordinator.server import serve

    log.setup("zt-coordinator", verbose=verbose)
    serve(read)


@main.command("backup")
@_config
@click.argument("destination", type=click.Path(path_type=Path))
def backup_command(config: Path, destination: Path) -> None:
    """Copy the store to the file DESTINATION, beside the running service."""
    from coordinator.backup import backup

    size = backup(settings.load(config), destination.absolute())
    click.echo(f"{destination}: {size} bytes")


@main.command("restore")
@_config
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore_command(config: Path, source: Path) -> None:
    """Put a backup in the place of the store; the service must stand still."""
    from coordinator.backup import restore

    done = restore(settings.load(config), source.absolute())
    click.echo(f"restored {done.nodes} nodes, epoch {done.revision.epoch}")
    if done.aside is not None:
        click.echo(f"the store that was there: {done.aside}")


@main.command("restored")
@_config
def restored_command(config: Path) -> None:
    """Tell the store that it was put back from a backup, before the service is started again."""
    from coordinator.setup import begin_epoch

    click.echo(f"epoch {begin_epoch(settings.load(config)).epoch}")


@main.command("renew")
@_config
@click.option("--now", "even_if_fresh", is_flag=True, help="Also where it is not due.")
def renew_command(config: Path, even_if_fresh: bool) -> None:
    """Renew the server certificate if it is due; a running service takes it over."""
    from coordinator import tls

    is_new = tls.renew(settings.load(config), even_if_fresh=even_if_fresh)
    click.echo("renewed" if is_new else "not due")


@main.group("authority")
def authority_group() -> None:
    """The TLS authority that nodes pin, and its roll-over."""


@authority_group.command("status")
@_config
@click.option("--json", "as_json", is_flag=True)
def authority_status_command(config: Path, as_json: bool) -> None:
    """Show the authorities, and which nodes do not trust the coming one yet."""
    from coordinator import authority

    _show_progress(authority.progress(settings.load(config)), as_json)


@authority_group.command("rotate")
@_config
@click.option("--json", "as_json", is_flag=True)
def authority_rotate_command(config: Path, as_json: bool) -> None:
    """Make the coming authority. Nodes learn it when they renew their tokens."""
    from coordinator import authority

    _show_progress(authority.begin(settings.load(config)), as_json)


@authority_group.command("switch")
@_config
@click.option("--force", is_flag=True, help="Lock out who does not trust the coming one yet.")
@click.option("--json", "as_json", is_flag=True)
def authority_switch_command(config: Path, force: bool, as_json: bool) -> None:
    """Show nodes a certificate of the coming authority, and forget the present one."""
    from coordinator import authority

    _show_progress(authority.switch(settings.load(config), force=force), as_json)


def _show_progress(found: Progress, as_json: bool) -> None:
    if as_json:
        echo_json(codec.encode(found))
        return
    click.echo(f"present  {found.current}")
    if found.coming is None:
        return
    click.echo(f"coming   {found.coming}")
    click.echo(f"trusted by {found.know} of {found.nodes} nodes")
    for name in found.waiting_for:
        click.echo(f"  not by {name}")
    for key in found.setup_keys:
        click.echo(f"  setup key {key} pins the present one")


@main.group("token")
def token_group() -> None:
    """Administrators' tokens."""


@token_group.command("create")
@_config
@click.option("--name", required=True, help="Whose token it is; one token per name.")
@click.option("--role", required=True, type=click.Choice(["viewer", "editor", "owner"]))
@click.option("--json", "as_json", is_flag=True)
def token_create_command(config: Path, name: str, role: str, as_json: bool) -> None:
    """Make an administrator's token and show it, this once."""
    from coordinator.setup import create_token

    token = create_token(settings.load(config), name, cast("AdminRole", role))
    if as_json:
        echo_json({"name": name, "role": role, "token": token})
    else:
        click.echo(token)
