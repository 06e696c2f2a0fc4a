"""Forms: from what was typed to the API's JSON, and from the API's faults to the fields.

Nothing is judged here. What cannot be a number is sent as the text it is, so that the API says
what it wants instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Type = Literal["text", "optional", "number", "choice", "flag", "words", "ports", "proto", "offers"]
FLAG = (("false", "no"), ("true", "yes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a form.

    type      optional: left empty it is null; words, ports: separated by blanks, commas or lines;
              number, proto: left empty they are not sent; offers: gateway and priority, by lines
    choices   of type choice (and of flag: FLAG): (value, what it says)
    names     whose names are offered: "principals", "identities" or "gateways"
    is_fixed  cannot be changed once the object is there
    """

    name: str
    label: str
    type: Type = "text"
    hint: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    names: str = ""
    value: str = ""
    is_fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Faults, each where it belongs: below the name of a field, or to the form as a whole."""

    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()


def typed(fields: Iterable[Field], form: Mapping[str, str]) -> dict[str, Any]:
    """The JSON body that FORM is meant to be."""
    body: dict[str, Any] = {}
    for spec in fields:
        text = form.get(spec.name, "").strip()
        if spec.type in ("number", "proto") and not text:
            continue
        body[spec.name] = _value(spec.type, text)
    return body


def shown(fields: Iterable[Field], found: Mapping[str, Any]) -> dict[str, str]:
    """An object of the API as the texts of a form."""
    return {spec.name: _text(spec.type, found.get(spec.name)) for spec in fields}


def blank(fields: Iterable[Field]) -> dict[str, str]:
    """The texts of a form for what is not there yet."""
    return {spec.name: spec.value for spec in fields}


def place(
    faults: Iterable[tuple[str, str]],
    known: Iterable[str],
    prefix: re.Pattern[str],
    otherwise: str = "",
) -> Placed:
    """FAULTS by the field that their path names after PREFIX.

    otherwise  the field of a fault of the object itself ("groups.all: …"); none: the whole form
    """
    names = frozenset(known)
    placed: dict[str, tuple[str, ...]] = {}
    whole = []
    for path, message in faults:
        rest, is_own = prefix.subn("", path, count=1)
        head = re.split(r"[.\[]", rest, maxsplit=1)[0] or (otherwise if is_own else "")
        if head in names:
            placed[head] = (*placed.get(head, ()), message)
        else:
            whole.append(f"{path}: {message}" if path not in ("", "document") else message)
    return Placed(fields=placed, whole=tuple(whole))


def number(text: str) -> int | str:
    """TEXT as a number, if it is one."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def words(text: str) -> list[str]:
    """What blanks, commas and lines separate."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def _value(kind: Type, text: str) -> Any:
    if kind == "optional":
        return text or None
    if kind in ("number", "proto"):
        return number(text)
    if kind == "flag":
        return {"true": True, "false": False}.get(text, text)
    if kind == "words":
        return words(text)
    if kind == "ports":
        return [number(word) for word in words(text)]
    if kind == "offers":
        return [_offer(line) for line in text.splitlines() if line.strip()]
    return text


def _offer(line: str) -> dict[str, Any]:
    """`gw2 200`: the priority is what follows the name; of none the API says what it wants."""
    gateway, *rest = line.split()
    return {"gateway": gateway, "priority": number(" ".join(rest))}


def _text(kind: Type, value: Any) -> str:
    if value is None:
        return ""
    if kind == "flag":
        return "true" if value else "false"
    if kind == "words":
        return "\n".join(map(str, value))
    if kind == "ports":
        return ", ".join(map(str, value))
    if kind == "offers":
        return "\n".join(f"{offer['gateway']} {offer['priority']}" for offer in value)
    return str(value)
