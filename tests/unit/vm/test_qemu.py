"""What QEMU is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztlab.errors import HostUnfit
from ztlab.vm import qemu


def test_a_temporary_folder_too_deep_for_a_socket_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ("a" * 120)
    folder.mkdir()
    shared = qemu.shared(folder, "host", Path("/"), cache="always")
    with pytest.raises(HostUnfit, match="too long a path") as refused, shared:
        pass
    assert "TMPDIR" in refused.value.hint
