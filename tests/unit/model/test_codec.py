"""Plain data to dataclasses and back: strict; a fault says where, what was wanted, what found."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztlab.errors import SchemaError
from ztlab.model.codec import canonical, decode, describe, did_you_mean, digest, encode, field
from ztlab.model.verdict import AuthzMode


def _positive(value: int) -> None:
    if value <= 0:
        raise ValueError(f"want more than 0, got {value}")


class Colour(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark-blue"


@dataclass(frozen=True, kw_only=True)
class Port:
    number: int = field(check=_positive)
    proto: Literal["tcp", "udp"] = "tcp"


@dataclass(frozen=True, kw_only=True)
class Machine:
    name: str
    origin: str = field(key="from")
    ports: tuple[Port, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 1.0
    is_logging: bool = True
    mode: AuthzMode = AuthzMode.ENFORCE
    colour: Colour | None = None
    target: int | str | None = None
    where: Port | str = "here"
    extra: Any = None

    def __post_init__(self) -> None:
        if self.name == self.origin:
            raise ValueError("want a name of its own")


WHOLE = {"name": "bob", "from": "here"}


def faults(data: Any, kind: type[Any] = Machine, path: str = "") -> list[str]:
    """What `decode` has against DATA."""
    with pytest.raises(SchemaError) as caught:
        decode(kind, data, path=path)
    return list(caught.value.problems)


def with_(**values: Any) -> dict[str, Any]:
    return {**WHOLE, **values}


def test_what_is_right_is_read() -> None:
    data = with_(
        ports=[{"number": 80}, {"number": 53, "proto": "udp"}],
        labels={"a": "b"},
        timeout_s=2,
        mode="observe",
        colour="dark-blue",
        target=8080,
        where={"number": 1},
    )
    machine = decode(Machine, data)
    assert machine == Machine(
        name="bob",
        origin="here",
        ports=(Port(number=80), Port(number=53, proto="udp")),
        labels={"a": "b"},
        timeout_s=2.0,
        mode=AuthzMode.OBSERVE,
        colour=Colour.DARK_BLUE,
        target=8080,
        where=Port(number=1),
    )
    assert isinstance(machine.timeout_s, float)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (with_(name=5), "name: want a text, got 5"),
        (with_(name=None), "name: want a text, got nothing"),
        (with_(timeout_s="25s"), "timeout_s: want a number, got '25s'"),
        (with_(timeout_s=True), "timeout_s: want a number, got True"),
        (with_(timeout_s=float("inf")), "timeout_s: want a number, got inf"),
        (with_(ports={}), "ports: want a list, got a mapping"),
        (with_(ports=[80]), "ports[0]: want a mapping, got 80"),
        (with_(ports=[{"number": True}]), "ports[0].number: want a whole number, got True"),
        (with_(ports=[{"number": 1.0}]), "ports[0].number: want a whole number, got 1.0"),
        (with_(ports=[{"number": 0}]), "ports[0].number: want more than 0, got 0"),
        (with_(ports=[{}]), "ports[0].number: missing"),
        (
            with_(ports=[{"number": 1, "proto": "tpc"}]),
            "ports[0].proto: want tcp | udp, got 'tpc' (did you mean \"tcp\"?)",
        ),
        (with_(labels=["a"]), "labels: want a mapping, got a list of 1"),
        (with_(labels={"a": 1}), "labels.a: want a text, got 1"),
        (with_(labels={1: "a"}), "labels.1: want a text as key, got 1"),
        (with_(is_logging=1), "is_logging: want on or off, got 1"),
        (with_(is_logging="yes"), "is_logging: want on or off, got 'yes'"),
        (
            with_(mode="observed"),
            "mode: want observe | enforce, got 'observed' (did you mean \"observe\"?)",
        ),
        (with_(mode=1), "mode: want observe | enforce, got 1"),
        (with_(colour="DARK_BLUE"), "colour: want red | dark-blue, got 'DARK_BLUE'"),
        (with_(target=1.5), "target: want a whole number or a text, got 1.5"),
        (with_(where={"number": "x"}), "where.number: want a whole number, got 'x'"),
        (with_(where=5), "where: want a mapping or a text, got 5"),
        (with_(name="here"), "document: want a name of its own"),
        ([], "document: want a mapping, got a list of 0"),
        (None, "document: want a mapping, got nothing"),
    ],
)
def test_what_is_wrong_is_named_with_path_wish_and_finding(data: Any, fault: str) -> None:
    assert faults(data) == [fault]


def test_every_fault_is_told_at_once() -> None:
    assert len(faults({"name": 1, "from": 2, "ports": [{}, {"number": "x"}]})) == 4


def test_a_path_begins_where_the_caller_says() -> None:
    assert faults({"from": "x"}, path="nodes.bob") == ["nodes.bob.name: missing"]


def test_an_unknown_key_is_refused_with_the_key_that_was_meant() -> None:
    (fault,) = faults(with_(port=[]))
    assert fault.startswith('port: unknown key (did you mean "ports"?); known: colour, extra, from')


def test_a_misspelt_key_is_not_missed_as_well() -> None:
    (fault,) = faults({"name": "bob", "frm": "here"})
    assert fault.startswith('frm: unknown key (did you mean "from"?)')


def test_a_key_without_likeness_is_refused_and_what_is_missing_too() -> None:
    first, second = faults({"name": "bob", "zzz": "here"})
    assert first.startswith("zzz: unknown key; known: ")
    assert second == "from: missing"


def test_a_suggestion_is_a_key_that_is_not_there_yet() -> None:
    @dataclass(frozen=True)
    class Pair:
        source: str
        sources: str

    (fault,) = faults({"source": "a", "sourcez": "b"}, Pair)
    assert 'did you mean "sources"' in fault


@pytest.mark.parametrize("text", ["on", "ON", "On", True])
def test_on_means_on_however_yaml_reads_it(text: Any) -> None:
    assert decode(Machine, with_(is_logging=text)).is_logging is True


@pytest.mark.parametrize("text", ["off", "OFF", False])
def test_off_means_off_however_yaml_reads_it(text: Any) -> None:
    assert decode(Machine, with_(is_logging=text)).is_logging is False


def test_a_whole_number_in_a_union_stays_one_and_a_text_a_text() -> None:
    assert decode(Machine, with_(target=80)).target == 80
    assert decode(Machine, with_(target="80")).target == "80"
    assert decode(Machine, with_(target=None)).target is None


machines = st.builds(
    Machine,
    name=st.text(min_size=1).filter(lambda name: name != "here"),
    origin=st.just("here"),
    ports=st.lists(st.builds(Port, number=st.integers(1), proto=st.sampled_from(("tcp", "udp"))))
    .map(tuple),
    labels=st.dictionaries(st.text(), st.text()),
    timeout_s=st.floats(allow_nan=False, allow_infinity=False),
    is_logging=st.booleans(),
    mode=st.sampled_from(AuthzMode),
    colour=st.none() | st.sampled_from(Colour),
    target=st.none() | st.integers() | st.text(),
    where=st.text() | st.builds(Port, number=st.integers(1)),
    extra=st.none() | st.lists(st.integers()),
)  # fmt: skip


@given(machines)
def test_what_is_written_is_read_back(machine: Machine) -> None:
    assert decode(Machine, encode(machine)) == machine
    assert decode(Machine, json.loads(canonical(machine))) == machine


@given(machines)
def test_the_canonical_form_is_ascii_and_repeatable(machine: Machine) -> None:
    form = canonical(machine)
    assert form.isascii()
    assert canonical(json.loads(form)) == form


@given(st.dictionaries(st.text(), st.integers(), min_size=2), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_keys(data: dict[str, int], chance: Any) -> None:
    keys = list(data)
    chance.shuffle(keys)
    assert digest({key: data[key] for key in keys}) == digest(data)


def test_a_digest_is_sha256_of_the_canonical_form() -> None:
    assert canonical({"b": [1, None, True], "a": "ä"}) == rb'{"a":"\u00e4","b":[1,null,true]}'
    assert digest({}) == hashlib.sha256(b"{}").hexdigest()


def test_a_set_has_one_canonical_form() -> None:
    names = {f"n{number}" for number in range(50)}
    assert canonical(names) == canonical(sorted(names))


def test_what_is_no_number_has_no_canonical_form() -> None:
    with pytest.raises(ValueError):
        canonical(float("nan"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "nothing"),
        ({}, "a mapping"),
        ([1, 2], "a list of 2"),
        ("25s", "'25s'"),
        ("x" * 100, "'" + "x" * 56 + "..."),
    ],
)
def test_a_finding_is_short_enough_for_a_line(data: Any, words: str) -> None:
    assert describe(data) == words


def test_a_suggestion_is_made_only_where_a_name_is_close() -> None:
    assert did_you_mean("identiy", ["identity", "role"]) == ' (did you mean "identity"?)'
    assert did_you_mean("xyz", ["identity", "role"]) == ""
