"""From root to nobody in particular, with no way back: no capability and no new privileges."""

from __future__ import annotations

import ctypes
import os
import pwd
from dataclasses import dataclass

from ztlab.errors import HostUnfit, ZtError

# include/uapi/linux/prctl.h and capability.h
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True)
class Account:
    """Whom to become."""

    uid: int
    gid: int
    name: str


def account(user: str | int) -> Account:
    """The account called USER (a name or a number); ZtError if there is none, or if it is root."""
    try:
        if isinstance(user, int) or user.isdigit():
            entry = pwd.getpwuid(int(user))
        else:
            entry = pwd.getpwnam(user)
        found = Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    except KeyError:
        if isinstance(user, str) and not user.isdigit():
            raise ZtError(
                f"no user is called {user!r}", hint=f"useradd --system --no-create-home {user}"
            ) from None
        found = Account(int(user), int(user), str(user))  # a bare number needs no entry
    if found.uid == 0:
        raise ZtError("the coordinator does not run as root", hint="set `user` in its settings")
    return found


def drop(to: Account | None) -> None:
    """Give up everything; TO None: stay who we are, but without any capability.

    The bounding set goes first, since only a privileged process may shrink it; a process that
    starts unprivileged cannot, and no_new_privs makes the set meaningless to it anyway.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if to is not None:
        _drop_bounding_set(libc)
        os.setgroups([])
        os.setresgid(to.gid, to.gid, to.gid)
        os.setresuid(to.uid, to.uid, to.uid)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _clear_capabilities(libc)


def _drop_bounding_set(libc: ctypes.CDLL) -> None:
    capability = 0
    while libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:  # EINVAL past the last one
        _prctl(libc, _PR_CAPBSET_DROP, capability)
        capability += 1


def _clear_capabilities(libc: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice 32 bits each
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise HostUnfit(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = os.strerror(ctypes.get_errno())
        raise HostUnfit(f"cannot give up privileges (prctl {option}): {error}")
