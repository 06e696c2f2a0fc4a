"""A revoked node's traffic stops at every other node, and nobody else's does.

How soon, `make bench-control` measures.
"""

from __future__ import annotations

import pytest

from tests.e2e import revoked
from ztlab.lab import build

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]


def test_a_revoked_nodes_traffic_stops_everywhere_and_nobody_elses(lab_name: str) -> None:
    lab = build.up(revoked.plan(lab_name, senders=3, receivers=2))
    taken = revoked.revoke_each(lab, senders=3, receivers=2)
    assert len(taken) == 6
    assert [n.name for n in lab.admin().nodes() if n.revoked_at] == ["web0", "web1", "web2"]
