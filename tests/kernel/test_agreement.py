"""The kernel programs and the truth agree: policies and packets by hypothesis, and those kept.

The truth is `decide()` of the policy as written, and ARCHITECTURE.md's truth table around it
(tests/kernel/truth.py, reading.py). ZT_PROOF_PACKETS says how many packets; CONTRIBUTING.md how a
story that failed is kept.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.loaded import Wanted
from tests.kernel import testrun
from tests.kernel.conftest import MARKS
from tests.kernel.player import Played, Player, with_room_for
from tests.kernel.stories import FEW_FLOWS, Story, stories
from tests.kernel.truth import Way
from ztlab.model.verdict import Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

CORPUS = Path(__file__).parent / "corpus"
FAILED = Path("build/proof-failed.yaml")
PACKETS = int(os.environ.get("ZT_PROOF_PACKETS", "10000"))
PER_STORY = 400  # two policies, each with at least 200
# Small: what a change of policy costs grows with them, and nothing here is about sizes.
LIMITS = Limits(ids=256, nets=256, policy=16384, pairs=1024, flows=8192, rules=64, ring_pages=256)
# Every other story has little room for flows. bcc cannot load onto the map that makes it so.
ROOM = {"libbpf": (None, FEW_FLOWS), "bcc": (None,)}
NOT_PLAYED = {"libbpf": set[Verdict](), "bcc": {Verdict.MAP_FULL}}

Players = dict[int | None, Player]
"""By the room for flows that their nodes have."""


@pytest.fixture(scope="module")
def players(loader: str) -> Iterator[Players]:
    with ExitStack() as held:
        roomy = Datapath.load(marks=MARKS, limits=LIMITS, l3_offset=testrun.ETHERNET, loader=loader)
        held.callback(roomy.close)
        found: Players = {None: Player(roomy)}
        if FEW_FLOWS in ROOM[loader]:
            wanted = Wanted(marks=MARKS, limits=LIMITS, l3_offset=testrun.ETHERNET)
            tight = held.enter_context(with_room_for(FEW_FLOWS, wanted))
            found[FEW_FLOWS] = Player(tight, FEW_FLOWS)
        yield found


def played_in_agreement(players: Players, story: Story) -> list[Played]:
    player = players[story.flows]
    played = player.play(story)
    complaints = [
        f"packet {number}, {one.step.written()}: {one.complaint}"
        for number, one in enumerate(played)
        if one.complaint
    ]
    complaints += [f"buckets: {player.astray}"] if player.astray else []
    if complaints:
        FAILED.parent.mkdir(exist_ok=True)
        FAILED.write_text(story.written())
        pytest.fail(
            f"{complaints[0]}\n"
            f"the story is in {FAILED}; once the cause is mended it belongs in {CORPUS.name}/",
            pytrace=False,
        )
    return played


def test_the_programs_do_with_every_packet_what_policy_and_truth_table_say(
    players: Players, loader: str
) -> None:
    seen: Counter[tuple[Way, Verdict]] = Counter()

    @settings(
        max_examples=PACKETS // PER_STORY + 2,  # the first is the smallest there is: no packets
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(story=stories(flows=ROOM[loader]))
    def agree(story: Story) -> None:
        for one in played_in_agreement(players, story):
            assert one.step.packet is not None
            seen[one.step.packet[0], one.found.verdict] += 1

    agree()
    assert sum(seen.values()) >= PACKETS
    assert {verdict for _, verdict in seen} == set(Verdict) - NOT_PLAYED[loader]
    assert {way for way, _ in seen} == set(Way)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_once_differed_still_agrees(players: Players, path: Path) -> None:
    story = Story.parsed(path.read_text())
    if story.flows not in players:
        pytest.skip("needs libbpf: bcc cannot load onto a map that has little room for flows")
    assert played_in_agreement(players, story)
