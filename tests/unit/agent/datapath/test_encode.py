from __future__ import annotations

from agent.abi import Action, Pair, PairKey, PolicyFlag, PolicyKey, PolicyValue
from agent.datapath.compile import desired_state
from agent.datapath.encode import (
    identity_entries,
    in_slot,
    policy_entries,
    policy_flags,
    read_identities,
)
from tests.unit.agent.datapath.configs import TAGS, node_config, rule

STATE = desired_state(
    node_config(rule("r", "web", "*", "allow", proto="tcp", ports=("1-6",)), default="allow")
)


def test_identities_read_back_are_those_written() -> None:
    ids, nets = identity_entries(STATE)
    assert len(ids) == 7 and len(nets) == 3
    assert read_identities(ids, nets) == STATE.identities


def test_the_two_slots_never_share_an_entry() -> None:
    first, second = policy_entries(STATE, 0), policy_entries(STATE, 1)
    assert len(first[0]) == len(STATE.policy) and not first[0].keys() & second[0].keys()
    both = {**first[0], **second[0]}, {**first[1], **second[1]}
    assert in_slot(*both, 0) == first
    assert in_slot(*both, 1) == second


def test_the_flags_say_default_and_role() -> None:
    assert policy_flags(STATE) & ~PolicyFlag.TO_ANY == PolicyFlag.DEFAULT_ALLOW
    assert policy_flags(desired_state(node_config(role="client"))) == PolicyFlag.CLIENT
    assert policy_flags(desired_state(node_config())) == PolicyFlag(0)


def test_the_flags_say_which_pairs_with_a_star_there_are() -> None:
    stars = {("*", "api"): PolicyFlag.FROM_ANY, ("web", "*"): PolicyFlag.TO_ANY}
    stars |= {("*", "*"): PolicyFlag.ANY_TO_ANY, ("web", "api"): PolicyFlag(0)}
    for (source, destination), flag in stars.items():
        rules = rule("r", source, destination, "allow"), rule("s", "guest", "api", "deny")
        assert policy_flags(desired_state(node_config(*rules))) == flag


def test_entries_are_laid_out_as_the_abi_says() -> None:
    policy, pairs = policy_entries(STATE, 1)
    for (data, value), (match, outcome) in zip(policy.items(), STATE.policy.items(), strict=True):
        key = PolicyKey(
            source=match.source,
            destination=match.destination,
            port=match.port,
            protocol=match.protocol,
            port_bits=match.port_bits,
            slot=1,
        )
        assert data == bytes(key)
        assert value == bytes(PolicyValue(rule=outcome.rule, action=outcome.action))
    assert pairs == {
        bytes(PairKey(*ends, 1)): bytes(Pair(shapes=shapes)) for ends, shapes in STATE.pairs.items()
    }


def test_the_one_entry_of_a_pair_stands_with_the_pair() -> None:
    state = desired_state(
        node_config(
            rule("only", "web", "api", "deny", proto="tcp", ports=(80,)),
            rule("r", "guest", "api", "allow", proto="tcp", ports=(80, 443)),
        )
    )
    policy, pairs = policy_entries(state, 0)
    web, api, guest = (TAGS[name] for name in ("web", "api", "guest"))
    only = Pair(rule=1, port=80, protocol=6, port_bits=16, action=Action.DENY)
    assert pairs == {
        bytes(PairKey(web, api, 0)): bytes(only),
        bytes(PairKey(guest, api, 0)): bytes(Pair(shapes=1 << 16)),
    }
    assert {PolicyKey.from_buffer_copy(key).source for key in policy} == {guest}
