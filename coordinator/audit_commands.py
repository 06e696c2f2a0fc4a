"""zt-coordinator audit verify | head: on the store itself, with or without a running service."""

from __future__ import annotations

from pathlib import Path

import click

from ztlab.clikit import echo_json

_config = click.option(
    "--config",
    "config",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="coordinator.toml (docs/CONFIGURATION.md).",
)


@click.group("audit")
def audit_group() -> None:
    """The log of who changed what."""


@audit_group.command("verify")
@_config
@click.option("--expect", metavar="HASH", help="A hash that was noted before: it must be there.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def verify_command(ctx: click.Context, config: Path, expect: str | None, as_json: bool) -> None:
    """Go through the whole log: was a row changed, removed or inserted?

    Exit codes: 0 it is whole, 1 it is not. A log that was cut off at its end, or written anew
    from there on, is only found with --expect.
    """
    from coordinator import audit, settings
    from coordinator.store import migrate
    from coordinator.store.engine import opened

    with opened(settings.load(config).database_url) as store:
        migrate.check(store.engine)
        with store.reading() as session:
            found = audit.verify(session, expect=expect)
    if as_json:
        faults = list(found.faults)
        said = {"is_intact": found.is_intact, "rows": found.rows, "head": found.head}
        echo_json({**said, "faults": faults})
    else:
        for fault in found.faults:
            click.echo(fault)
        state = "intact" if found.is_intact else "NOT INTACT"
        click.echo(f"{state}: {found.rows} rows, head {found.head}")
    ctx.exit(0 if found.is_intact else 1)


@audit_group.command("head")
@_config
def head_command(config: Path) -> None:
    """Print the hash of the newest row, to be noted on another machine."""
    from coordinator import audit, settings
    from coordinator.store import migrate
    from coordinator.store.engine import opened

    with opened(settings.load(config).database_url) as store:
        migrate.check(store.engine)
        with store.reading() as session:
            click.echo(audit.head(session)["hash"])
