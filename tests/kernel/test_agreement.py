"""The kernel programs and the truth agree: policies and packets by hypothesis, and those kept.

The truth is `decide()` of the policy as written, and ARCHITECTURE.md's truth table around it
(tests/kernel/truth.py, reading.py). ZT_PROOF_PACKETS says how many packets; CONTRIBUTING.md how a
story that failed is kept.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from tests.kernel import testrun
from tests.kernel.conftest import MARKS
from tests.kernel.player import Played, Player
from tests.kernel.stories import Story, stories
from tests.kernel.truth import Way
from ztlab.model.verdict import Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

CORPUS = Path(__file__).parent / "corpus"
FAILED = Path("build/proof-failed.yaml")
PACKETS = int(os.environ.get("ZT_PROOF_PACKETS", "10000"))
PER_STORY = 400  # two policies, each with at least 200
# Small: what a change of policy costs grows with them, and nothing here is about sizes.
LIMITS = Limits(ids=256, nets=256, policy=16384, pairs=1024, flows=8192, rules=64, ring_pages=256)
NOT_PLAYED = {Verdict.OVER_QUOTA, Verdict.MAP_FULL}  # no quotas here, and room enough


@pytest.fixture(scope="module")
def player(loader: str) -> Iterator[Player]:
    datapath = Datapath.load(marks=MARKS, limits=LIMITS, l3_offset=testrun.ETHERNET, loader=loader)
    yield Player(datapath)
    datapath.close()


def require_agreement(played: list[Played], story: Story) -> None:
    for number, one in enumerate(played):
        if one.complaint:
            FAILED.parent.mkdir(exist_ok=True)
            FAILED.write_text(story.written())
            way, packet = one.step.packet or ("", b"")
            pytest.fail(
                f"packet {number}, {way}, {packet.hex()}: {one.complaint}\n"
                f"the story is in {FAILED}; once the cause is mended it belongs in {CORPUS.name}/",
                pytrace=False,
            )


def test_the_programs_do_with_every_packet_what_policy_and_truth_table_say(player: Player) -> None:
    seen: Counter[tuple[Way, Verdict]] = Counter()

    @settings(
        max_examples=PACKETS // PER_STORY + 2,  # the first is the smallest there is: no packets
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(story=stories())
    def agree(story: Story) -> None:
        played = player.play(story)
        for one in played:
            assert one.step.packet is not None
            seen[one.step.packet[0], one.found.verdict] += 1
        require_agreement(played, story)

    agree()
    assert sum(seen.values()) >= PACKETS
    assert {verdict for _, verdict in seen} == set(Verdict) - NOT_PLAYED
    assert {way for way, _ in seen} == set(Way)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_once_differed_still_agrees(player: Player, path: Path) -> None:
    story = Story.parsed(path.read_text())
    played = player.play(story)
    assert played
    require_agreement(played, story)
