"""zt-coordinator export | apply | explain: through the management API, from any machine.

Through the API and not on the store: the audit log then names the administrator whose token it is,
roles hold, and the running service tells its nodes at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ztlab.clikit import echo_json
from ztlab.errors import SchemaError, ZtError

if TYPE_CHECKING:
    from coordinator.differences import Kind
    from ztlab.client.admin import AdminClient
    from ztlab.model.explanation import Explanation, Pair
    from ztlab.model.preview import Preview

DIFFERS = 4  # exit code: the network is not as the document says
_file = click.Path(dir_okay=False, path_type=Path)
_Command = Callable[..., Any]


def remote(command: _Command) -> _Command:
    """The options that say which coordinator, and who asks."""
    for option in (
        click.option(
            "--authority",
            required=True,
            type=_file,
            help="The coordinator's TLS authority: authority.pem.",
        ),
        click.option(
            "--token-file", required=True, type=_file, help="Holds an administrator's token."
        ),
        click.option("--url", required=True, help="https://HOST:PORT of the coordinator."),
    ):
        command = option(command)
    return command


@click.command("export")
@remote
@click.option("-o", "--output", type=_file, help="Write there instead of to standard output.")
def export_command(url: str, token_file: Path, authority: Path, output: Path | None) -> None:
    """Print identities, groups, resources and policy as YAML, for `apply`."""
    from coordinator import document

    with closing(_client(url, token_file, authority)) as admin:
        text = document.to_yaml(admin.document().value)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)


@click.command("apply")
@remote
@click.option("-f", "--file", "path", required=True, type=_file, help="The YAML document.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Needs --yes or --dry-run.")
@click.pass_context
def apply_command(
    ctx: click.Context,
    url: str,
    token_file: Path,
    authority: Path,
    path: Path,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make identities, groups, resources and policy what a document says, and nothing else.

    Shows what would change, and for which nodes, and asks. What somebody else writes meanwhile is
    not overwritten: then it is refused. Exit codes: 0 the network is as the document says, 1 it
    was refused or failed, 2 usage, 4 the network is not as the document says, and was left so.
    """
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json asks nothing: add --yes or --dry-run")
    wanted = _read_document(path)
    with closing(_client(url, token_file, authority)) as admin:
        etag = admin.document().etag
        preview = admin.rehearse("PUT", "/network-document", wanted, etag=etag)
        is_same = preview.change_count == 0
        if not as_json:
            for line in _preview_lines(preview):
                click.echo(line)
        applies = not (is_same or dry_run) and (yes or _agrees())
        revision = admin.put_document(wanted, etag=etag) if applies else None
    if as_json:
        from ztlab.model import codec

        echo_json(
            {
                "is_applied": applies,
                "preview": codec.encode(preview),
                "revision": codec.encode(revision),
            }
        )
    elif revision is not None:
        click.echo(f"applied: revision {revision.epoch}/{revision.number}")
    ctx.exit(0 if is_same or applies else DIFFERS)


@click.command("explain")
@remote
@click.argument("source")
@click.argument("destination")
@click.option("--proto", default="any", help="tcp, udp, icmp, any, or a number.")
@click.option("--port", type=click.IntRange(0, 65535))
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def explain_command(
    ctx: click.Context,
    url: str,
    token_file: Path,
    authority: Path,
    source: str,
    destination: str,
    proto: str,
    port: int | None,
    as_json: bool,
) -> None:
    """Who may reach whom, on what, and by which rule.

    SOURCE and DESTINATION are a node, an identity, a group, a resource, `world` or an address.
    Exit codes: 0 all that was asked about is allowed, 1 it is not, or nobody is called so.
    """
    with closing(_client(url, token_file, authority)) as admin:
        found = admin.explain(source, destination, proto=proto, port=port)
    if as_json:
        from ztlab.model import codec

        echo_json(codec.encode(found))
    else:
        for line in _explanation_lines(found):
            click.echo(line)
    ctx.exit(0 if found.verdict == "allow" else 1)


def _client(url: str, token_file: Path, authority: Path) -> AdminClient:
    from ztlab.client.admin import AdminClient

    return AdminClient(url, _text(authority), _text(token_file).strip())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ZtError(f"cannot read {path}: {reason}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ZtError(f"cannot write {path}: {error.strerror}") from error


def _read_document(path: Path) -> dict[str, Any]:
    """The document in the file, as PUT /network-document takes it; faults name the file."""
    from coordinator import document
    from coordinator.catalog import DocumentBody
    from ztlab.model import codec

    try:
        body = codec.decode(DocumentBody, document.from_yaml(_text(path)))
    except SchemaError as error:
        raise SchemaError([f"{path}: {line}" for line in error.problems]) from None
    plain: dict[str, Any] = codec.encode(body)
    return plain


def _agrees() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked: add --yes, or --dry-run")
    return click.confirm("apply?", default=False)


def _preview_lines(preview: Preview) -> Iterator[str]:
    from coordinator.differences import Difference
    from coordinator.document import as_lines

    if preview.change_count == 0:
        yield "no change"
        return
    changes = [
        Difference(kind=cast("Kind", c.kind), name=c.name, before=c.before, after=c.after)
        for c in preview.changes
    ]
    yield from as_lines(changes)
    if (more := preview.change_count - len(changes)) > 0:
        yield f"... and {more} more"
    yield f"nodes that are told: {preview.node_count}"
    for node in preview.nodes:
        parts = []
        for part in node.parts:
            signs = (("+", part.added), ("-", part.removed), ("~", part.changed))
            counts = "".join(f" {sign}{names.count}" for sign, names in signs if names.count)
            parts.append(f"{part.part}{counts}")
        yield f"  {node.name}: {', '.join(parts) or node.state}"


def _explanation_lines(found: Explanation) -> Iterator[str]:
    port = "" if found.port is None else f" {found.port}"
    yield f"{found.source.asked} -> {found.destination.asked} {found.proto}{port}: {found.verdict}"
    for pair in found.pairs:
        yield from _pair_lines(pair)
    if found.left_off:
        yield f"... and {found.left_off} more pairs"
    for note in found.notes:
        yield f"note: {note}"


def _pair_lines(pair: Pair) -> Iterator[str]:
    yield f"  {pair.source} -> {pair.destination}: {pair.verdict}"
    for one in pair.slices:
        by = f"rule {one.rule}" if one.rule else "the default"
        yield f"    {one.service}: {one.verdict} by {by}"
    for match in pair.matches:
        how = [
            f"{end} {text}" + (" (group)" if by == "group" else "")
            for end, text, by in (
                ("from", match.source, match.source_by),
                ("to", match.destination, match.destination_by),
            )
        ]
        yield f"    matches: {match.action} {match.rule}: {' '.join(how)}"
