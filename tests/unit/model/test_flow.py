"""Protocols by name and number."""

from __future__ import annotations

import pytest

from ztlab.model.flow import protocol_name


@pytest.mark.parametrize(
    ("number", "name"), [(6, "tcp"), (17, "udp"), (1, "icmp"), (58, "icmp"), (47, "47"), (0, "0")]
)
def test_a_protocol_has_its_name_or_its_number_as_text(number: int, name: str) -> None:
    assert protocol_name(number) == name
