"""When an agent is ready, by its metrics alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztlab.lab.ready import missing, tail

READY = """\
zt_agent_enrolled 1.0
zt_stream_connected 1.0
zt_datapath_attached{hook="ingress"} 1.0
zt_datapath_attached{hook="egress"} 1.0
zt_peers 2.0
zt_peer_last_handshake_seconds{peer="bob"} 1.7e+09
zt_peer_last_handshake_seconds{peer="carol"} 1.7e+09
"""


def test_an_agent_with_everything_lacks_nothing() -> None:
    assert missing(READY, ["bob", "carol"]) == ()


@pytest.mark.parametrize(
    ("line", "instead", "lacks"),
    [
        ("zt_agent_enrolled 1.0", "zt_agent_enrolled 0.0", "not enrolled"),
        ("zt_stream_connected 1.0", "", "no stream from the coordinator"),
        ('{hook="egress"} 1.0', '{hook="egress"} 0.0', "no program on egress"),
        ("zt_peers 2.0", "", "its peers are not configured"),
        ("zt_peers 2.0", "zt_peers 3.0", "its peers are not configured"),
        ('{peer="carol"} 1.7e+09', '{peer="carol"} 0.0', "no handshake with carol"),
    ],
)
def test_an_agent_that_lacks_one_thing_is_said_to_lack_it(
    line: str, instead: str, lacks: str
) -> None:
    assert line in READY
    assert missing(READY.replace(line, instead), ["bob", "carol"]) == (lacks,)


def test_an_agent_that_says_nothing_lacks_everything() -> None:
    assert len(missing("", [])) == 5


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{i}\n" for i in range(100)))
    assert tail(log, 2) == "  98\n  99"
    assert tail(tmp_path / "none") == "  (nothing)"
