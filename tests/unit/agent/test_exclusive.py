"""One agent for each run_dir, and root."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import exclusive
from ztlab.errors import ZtError


def test_one_run_dir_has_one_agent(tmp_path: Path) -> None:
    with exclusive.lock(tmp_path / "run"):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        with pytest.raises(ZtError, match="another zt-agent runs"):
            exclusive.lock(tmp_path / "run")
    exclusive.lock(tmp_path / "run").close()
