"""The policy: its rules, page by page; its default, quotas and tests in one form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Response, abort, request
from werkzeug.wrappers import Response as AnyResponse

from coordinator.ui import forms, guard
from coordinator.ui.forms import Field
from coordinator.ui.inside import Answer, ask, get
from coordinator.ui.kinds import KINDS, RULES, may
from coordinator.ui.objects import offered
from coordinator.ui.page import blueprint, go, render

RULES_SHOWN = 200
_EMPTY_ROWS = 3  # beside those that are there; saved, there are as many again
_ACTIONS = (("allow", "allow"), ("deny", "deny"))
_FAULT = re.compile(r"(?:policy\.)?(tests|quotas)\[([0-9]+)\]\.?([A-Za-z_]*)")

PARTS: Mapping[str, tuple[Field, ...]] = {
    "tests": (
        Field(name="from", label="From", names="principals"),
        Field(name="to", label="To", names="principals"),
        Field(name="proto", label="Protocol", type="proto", names="protocols"),
        Field(name="port", label="Port", type="number"),
        Field(name="expect", label="Expect", type="choice", choices=_ACTIONS),
    ),
    "quotas": (
        Field(name="identity", label="Identity", names="identities"),
        Field(name="rate", label="Rate, such as 10mbit"),
        Field(name="burst", label="Burst, such as 256kB"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a part, as typed, with what is wrong with it."""

    values: Mapping[str, str]
    faults: Mapping[str, tuple[str, ...]]


@blueprint.get("/policy")
def policy() -> Response:
    found = get("/policy").body
    part = request.args.get("find", "").strip()
    rules = [rule for rule in found["rules"] if _has(rule, part)]
    try:
        first = max(0, int(request.args.get("first", "0")))
    except ValueError:
        abort(404)
    return render(
        "policy.html",
        title="Policy",
        kind=RULES,
        can_edit=RULES.slug in KINDS and may(guard.browser().role, RULES.writer),
        policy=found,
        rules=rules[first : first + RULES_SHOWN],
        count=len(rules),
        find=part,
        first=first,
        following=first + RULES_SHOWN if len(rules) > first + RULES_SHOWN else None,
    )


@blueprint.get("/policy/edit")
def policy_edition() -> Response:
    _needs_an_editor()
    found = get("/policy")
    rows = {part: _shown(fields, found.body[part]) for part, fields in PARTS.items()}
    return _form(found.body["default"], rows, tag=found.tag)


@blueprint.post("/policy/edit")
def policy_edit() -> AnyResponse:
    _needs_an_editor()
    form, tag = request.form, request.form.get("etag") or None
    typed = {part: _typed_rows(fields, part, form) for part, fields in PARTS.items()}
    wanted: dict[str, Any] = {
        part: [forms.typed(PARTS[part], values) for values in rows] for part, rows in typed.items()
    }
    wanted["default"] = form.get("default", "")
    answer = ask("PUT", "/policy", {**get("/policy").body, **wanted}, tag=tag)
    if answer.is_ok:
        return go("policy")
    rows = {
        part: [_judged(values, part, i, answer) for i, values in enumerate(listed)]
        for part, listed in typed.items()
    }
    theirs = None
    if answer.status == 412:
        now = get("/policy")
        tag, theirs = now.tag, {**now.body, "rules": []}
    return _form(form.get("default", ""), rows, tag=tag, answer=answer, theirs=theirs)


def _needs_an_editor() -> None:
    if not may(guard.browser().role, "editor"):
        abort(403, "This needs the role editor.")


def _has(rule: Mapping[str, Any], part: str) -> bool:
    words = (rule["id"], rule["from"], rule["to"], rule["action"], str(rule.get("proto", "any")))
    return not part or any(part.lower() in word.lower() for word in words)


def _shown(fields: tuple[Field, ...], listed: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row(values=forms.shown(fields, found), faults={}) for found in listed]


def _typed_rows(
    fields: tuple[Field, ...], part: str, form: Mapping[str, str]
) -> list[dict[str, str]]:
    """The rows that something was typed into; a choice alone is nothing typed."""
    numbers = {
        int(m[1]) for name in form if (m := re.fullmatch(rf"{part}-([0-9]{{1,5}})-\w+", name))
    }
    rows = []
    for number in sorted(numbers):
        row = {f.name: form.get(f"{part}-{number}-{f.name}", "").strip() for f in fields}
        if any(row[f.name] for f in fields if f.type != "choice"):
            rows.append(row)
    return rows


def _judged(values: Mapping[str, str], part: str, index: int, answer: Answer) -> Row:
    faults: dict[str, tuple[str, ...]] = {}
    for path, message in answer.faults:
        match = _FAULT.match(path)
        if match and match[1] == part and int(match[2]) == index:
            faults[match[3]] = (*faults.get(match[3], ()), message)
    return Row(values=values, faults=faults)


def _form(
    default: str,
    rows: Mapping[str, list[Row]],
    *,
    tag: str | None,
    answer: Answer | None = None,
    theirs: Mapping[str, Any] | None = None,
) -> Response:
    empty = {part: Row(values=forms.blank(fields), faults={}) for part, fields in PARTS.items()}
    whole: tuple[str, ...] = ()
    if answer is not None and theirs is None:
        loose = [(path, text) for path, text in answer.faults if not _FAULT.match(path)]
        whole = tuple(f"{path}: {text}" for path, text in loose)
        if not answer.faults:
            whole = (answer.detail,)
    return render(
        "policy_form.html",
        title="Edit default, quotas and tests",
        status=200 if answer is None else answer.status,
        default=default,
        parts=PARTS,
        rows={part: [*listed, *[empty[part]] * _EMPTY_ROWS] for part, listed in rows.items()},
        whole=whole,
        is_wrong=answer is not None,
        theirs=theirs,
        etag=tag or "",
        offered=offered(tuple(f for fields in PARTS.values() for f in fields)),
    )
