"""What answers on a scenario's ports."""

from __future__ import annotations

import socket

import pytest

from ztlab.lab import listener


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_gives_up_where_nobody_hears_it(
    monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily
) -> None:
    loopback = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
    monkeypatch.setattr(listener, "_FAMILIES", loopback)
    with listener.Server([])._listen("tcp/0", family) as server:
        with socket.create_connection(server.getsockname()[:2], 5):
            connection, _ = server.accept()
            with connection:
                unheard_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert 0 < unheard_ms <= 15_000
