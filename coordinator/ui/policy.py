"""The policy: its rules, page by page, and its default, tests and quotas, each in one form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, abort, request
from werkzeug.wrappers import Response as AnyResponse

from coordinator.ui import forms, guard
from coordinator.ui.forms import Field
from coordinator.ui.inside import Answer, get, is_asked_only, write
from coordinator.ui.kinds import RULES, may
from coordinator.ui.listing import listed
from coordinator.ui.objects import offered, preview_of
from coordinator.ui.page import blueprint, go, render

_EMPTY_ROWS = 3  # beside those that are there; saved, there are as many again
_ACTIONS = (("allow", "allow"), ("deny", "deny"))
_FAULT = re.compile(r"(?:policy\.)?(tests|quotas)\[([0-9]+)\]\.?([A-Za-z_]*)")

ABOUT = {
    "default": "What happens where no rule matches",
    "tests": "What must stay true of the policy: a change that breaks one is refused",
    "quotas": "How much may come from one identity",
}
_PART = "<any(default, tests, quotas):part>"
PARTS: Mapping[str, tuple[Field, ...]] = {
    "default": (),
    "tests": (
        Field(name="from", label="From", names="principals"),
        Field(name="to", label="To", names="principals"),
        Field(name="proto", label="Protocol", type="proto", names="protocols"),
        Field(name="port", label="Port", type="number"),
        Field(name="icmp_type", label="ICMP type", type="proto"),
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
    """One line of a part, as typed, with what is wrong with it by field."""

    values: Mapping[str, str]
    faults: Mapping[str, tuple[str, ...]]


@blueprint.get("/policy")
def policy() -> Response:
    parts = {part: get(f"/policy/{part}").body[part] for part in PARTS}
    return render("policy.html", title="Policy", kind=RULES, policy=parts, page=listed(RULES))


@blueprint.get(f"/policy/{_PART}/edit")
def policy_edition(part: str) -> Response:
    _needs_an_editor()
    found = get(f"/policy/{part}")
    return _form(part, _shown(part, found.body), tag=found.tag)


@blueprint.post(f"/policy/{_PART}/edit")
def policy_edit(part: str) -> AnyResponse:
    _needs_an_editor()
    tag = request.form.get("etag") or None
    typed = _typed_rows(part)
    wanted: Any = [forms.typed(PARTS[part], values) for values in typed]
    if part == "default":
        wanted = request.form.get("default", "")
    answer = write("PUT", f"/policy/{part}", {part: wanted}, tag=tag)
    if answer.is_ok and not is_asked_only():
        return go("policy")
    rows = [_judged(values, part, i, answer.faults) for i, values in enumerate(typed)]
    theirs = None
    if answer.status == 412:
        # Somebody was faster. Both versions are shown; what is sent next answers to theirs.
        now = get(f"/policy/{part}")
        tag, theirs = now.tag, now.body[part]
    return _form(part, wanted if part == "default" else rows, tag=tag, answer=answer, theirs=theirs)


def _needs_an_editor() -> None:
    if not may(guard.browser().role, RULES.writer):
        abort(403, f"This needs the role {RULES.writer}.")


def _shown(part: str, found: Mapping[str, Any]) -> Any:
    if part == "default":
        return found[part]
    return [Row(values=forms.shown(PARTS[part], one), faults={}) for one in found[part]]


def _typed_rows(part: str) -> list[dict[str, str]]:
    """The rows that something was typed into; a choice alone is nothing typed."""
    form, fields = request.form, PARTS[part]
    numbers = {int(m[1]) for name in form if (m := re.fullmatch(r"([0-9]{1,5})-\w+", name))}
    rows = []
    for number in sorted(numbers):
        row = {spec.name: form.get(f"{number}-{spec.name}", "").strip() for spec in fields}
        if any(row[spec.name] for spec in fields if spec.type != "choice"):
            rows.append(row)
    return rows


def _judged(
    values: Mapping[str, str], part: str, index: int, found: Iterable[tuple[str, str]]
) -> Row:
    faults: dict[str, tuple[str, ...]] = {}
    for path, message in found:
        match = _FAULT.match(path)
        if match and match[1] == part and int(match[2]) == index:
            faults[match[3]] = (*faults.get(match[3], ()), message)
    return Row(values=values, faults=faults)


def _form(
    part: str,
    content: Any,
    *,
    tag: str | None,
    answer: Answer | None = None,
    theirs: Any = None,
) -> Response:
    fields = PARTS[part]
    rows = []
    if part != "default":
        rows = [*content, *[Row(values=forms.blank(fields), faults={})] * _EMPTY_ROWS]
    whole: tuple[str, ...] = ()
    if answer is not None and theirs is None:
        loose = (f for f in answer.faults if (m := _FAULT.match(f[0])) is None or m[1] != part)
        whole = tuple(f"{path}: {text}" for path, text in loose)
        if not answer.is_ok and not answer.faults:
            whole = (answer.detail,)
    return render(
        "policy_form.html",
        title=f"Edit {'the default' if part == 'default' else part}",
        status=200 if answer is None else answer.status,
        part=part,
        about=ABOUT[part],
        fields=fields,
        default=content if part == "default" else "",
        rows=rows,
        whole=whole,
        is_wrong=answer is not None and not answer.is_ok,
        preview=preview_of(answer),
        theirs=theirs,
        etag=tag or "",
        offered=offered(fields),
    )
