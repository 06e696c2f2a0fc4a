"""What administrators write, whole: identities, groups, resources and policy, as data and as YAML.

Nodes are not in it: they come by themselves, with a key of their own, so a document that named
them could not be applied where they are not (yet). Identities that nodes have stay, listed or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from coordinator.differences import Difference, Kind
from coordinator.state import NetworkState
from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.management import DEFAULT_PRIORITY

Document = dict[str, Any]
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:-]*(?<!:)")
_RESOLVER = yaml.resolver.Resolver()
_TEXT = "tag:yaml.org,2002:str"
_UNSAID: Mapping[str, Any] = {
    "proto": "any",
    "ports": [],
    "icmp_types": [],
    "port": None,
    "icmp_type": None,
    "priority": DEFAULT_PRIORITY,
    "alternatives": [],
    "via": [],
}
_LISTS = ("rules", "quotas", "tests")
PARTS = ("default", *_LISTS)  # of the policy


def of(network: NetworkState) -> Document:
    """The document of NETWORK, as PUT /network-document takes it."""
    policy = network.policy
    return {
        "identities": sorted(network.identities),
        "groups": {name: list(policy.groups[name]) for name in sorted(policy.groups)},
        "resources": [
            {
                "name": resource.name,
                "cidr": resource.cidr,
                "gateway": resource.gateway,
                "priority": resource.priority,
                "alternatives": codec.encode(resource.alternatives),
                "via": list(resource.via),
            }
            for resource in network.resources
        ],
        "policy": {
            "default": policy.default,
            **{part: codec.encode(getattr(policy, part)) for part in _LISTS},
        },
    }


def differences(old: Document, new: Document) -> list[Difference]:
    """Every object that is not the same in both documents."""
    olds, news = dict(_objects(old)), dict(_objects(new))
    orders = [[rule["id"] for rule in document["policy"]["rules"]] for document in (old, new)]
    if orders[0] != orders[1]:
        both = set(orders[0]) & set(orders[1])
        orders = [[rule for rule in order if rule in both] for order in orders]
    if orders[0] != orders[1]:  # it has no meaning, but it is what people wrote
        for objects, order in zip((olds, news), orders, strict=True):
            said = objects["policy", "policy"]
            objects["policy", "policy"] = {**said, "order_of_rules": codec.digest(order)}
    return [
        Difference(kind=kind, name=name, before=olds.get(key), after=news.get(key))
        for key in {**olds, **news}
        if olds.get(key) != news.get(key)
        for kind, name in [key]
    ]


def _objects(document: Document) -> Iterator[tuple[tuple[Kind, str], Mapping[str, Any]]]:
    for name in document["identities"]:
        yield ("identity", name), {"name": name}
    for name, members in document["groups"].items():
        yield ("group", name), {"name": name, "members": members}
    for resource in document["resources"]:
        yield ("resource", resource["name"]), resource
    policy = document["policy"]
    for rule in policy["rules"]:
        yield ("rule", rule["id"]), rule
    yield ("policy", "policy"), {part: policy[part] for part in ("default", "quotas", "tests")}


def as_lines(found: list[Difference]) -> Iterator[str]:
    """Differences for people: what goes with `-`, what comes with `+`, a changed one with both."""
    for one in found:
        if one.kind == "policy" and one.before is not None and one.after is not None:
            yield from _policy_lines(one.before, one.after)
            continue
        for sign, shown in (("-", one.before), ("+", one.after)):
            if shown is not None:
                yield f"{sign} {one.kind} {one.name}{_inline(_without_name(one.kind, shown))}"


def _without_name(kind: Kind, shown: Mapping[str, Any]) -> Mapping[str, Any]:
    return {k: v for k, v in shown.items() if k not in ("name", "tag", "id")}


def _inline(shown: Mapping[str, Any]) -> str:
    return f": {_flow(shown)}" if shown else ""


def _policy_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for part in after:
        was, now = before.get(part), after[part]
        if part in _LISTS and isinstance(was, list):
            yield from (f"- {part[:-1]} {_flow(one)}" for one in was if one not in now)
            yield from (f"+ {part[:-1]} {_flow(one)}" for one in now if one not in was)
        elif part == "order_of_rules":
            yield "~ the rules in another order, which means nothing"
        elif was != now:
            yield from (f"- {part} {was}", f"+ {part} {now}")


# --- YAML


def to_yaml(document: Document) -> str:
    """DOCUMENT as people write it: an object a line; one document, one spelling."""
    policy = document["policy"]
    groups = document["groups"]
    lines = [
        f"identities: {_flow(document['identities'])}",
        "groups:" if groups else "groups: {}",
        *(f"  {_scalar(name)}: {_flow(members)}" for name, members in groups.items()),
        *_listed("resources", document["resources"], ""),
        "policy:",
        f"  default: {policy['default']}",
    ]
    for part in _LISTS:
        lines += _listed(part, policy[part], "  ")
    return "\n".join(lines) + "\n"


def from_yaml(text: str) -> Document:
    """The document in TEXT, as data; SchemaError for what is no YAML, or has a key twice."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, but for double keys
    except yaml.YAMLError as error:
        raise SchemaError([" ".join(str(error).split())]) from None
    if not isinstance(data, dict):
        raise SchemaError([f"document: want a mapping, got {codec.describe(data)}"])
    return data


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader (in C where there is one: ten thousand rules take it no ten seconds), which
    refuses a key that is there twice: YAML says so, and PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep))


def _listed(name: str, items: list[Any], indent: str) -> Iterator[str]:
    if not items:
        yield f"{indent}{name}: []"
        return
    yield f"{indent}{name}:"
    for item in items:
        yield f"{indent}  - {_flow(item)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        said = {k: v for k, v in value.items() if k not in _UNSAID or v != _UNSAID[k]}
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in said.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """As YAML reads it back: plain where that is the same text, else quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value):
        tag = _RESOLVER.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]
        if tag == _TEXT:
            return value
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(character: str) -> str:
    """Between double quotes (YAML 1.1, section 5.7)."""
    if character in '"\\':
        return "\\" + character
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
