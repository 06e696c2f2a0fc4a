"""The shell around every command: one place where a ZtError becomes two lines and an exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any, NoReturn

import click

from ztlab.errors import ZtError


class ZtGroup(click.Group):
    """A command group that ends on a ZtError with "error:" and "hint:" lines, never a traceback.

    Exit codes: 0 it holds, 1 it failed, 2 usage (Click), 3 this host cannot run it,
    130 interrupted.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZtError as error:
            fail(error)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:
            # The reader (head, less) went away: nothing left to say, and nobody to say it to.
            sys.stderr.close()
            sys.exit(141)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            fail(no_room(error))


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def no_room(error: OSError) -> ZtError:
    """A full disk is the operator's to mend, wherever it was met."""
    where = os.fsdecode(error.filename) if error.filename else "the output, or a file"
    return ZtError(
        f"cannot write {where}: {os.strerror(error.errno or errno.ENOSPC)}",
        hint="make room (df -h), then do it again",
    )


def fail(error: ZtError) -> NoReturn:
    """Print what broke and what to try on stderr, and exit with the error's code."""
    click.echo(f"error: {error}", err=True)
    if error.hint:
        click.echo(f" hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def echo_json(value: Any) -> None:
    """Print VALUE as one indented JSON document; what `--json` prints is only ever this."""
    click.echo(json.dumps(value, indent=2, sort_keys=False, default=str))
