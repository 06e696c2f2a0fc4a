"""Of pyroute2 what the agent needs: rtnetlink and the errors.

`import pyroute2` imports all of it (conntrack, nl80211, a 9P server and eighty modules more), which
costs an agent a tenth of a second of its start and 10 MB. So the package stands in `sys.modules`
bare first, from where its modules import one another; whoever asks the package itself for a name
gets the whole of it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Bare(ModuleType):
    """A package whose __init__ runs when it is first asked for a name that is no module of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"{self.__name__}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _stand_bare(package: str) -> None:
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is not None:
        bare = _Bare(package)
        bare.__spec__, bare.__file__ = spec, spec.origin
        bare.__path__ = spec.submodule_search_locations or []
        sys.modules[package] = bare


_stand_bare("pyroute2")

from pyroute2.iproute import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["IPRoute", "NetlinkError"]
