"""Who may reach whom: the matrix, and behind each cell which rule, and why."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import Response, abort, request

from coordinator.ui.forms import Field
from coordinator.ui.inside import Answer, Refusal, ask, at, get
from coordinator.ui.objects import offered
from coordinator.ui.page import blueprint, render

SHOWN = 40  # in each direction
ASKED = (
    Field(name="from", label="From", names="principals"),
    Field(name="to", label="To", names="principals"),
    Field(name="proto", label="Protocol", names="protocols"),
    Field(name="port", label="Port"),
)


@blueprint.get("/reachability")
def reachability() -> Response:
    down, across = _offset("down"), _offset("across")
    limits = {"from_limit": str(SHOWN), "to_limit": str(SHOWN)}
    offsets = {"from_offset": str(down), "to_offset": str(across)}
    matrix = get("/reachability", limits | offsets).body
    asked = {spec.name: request.args.get(spec.name, "").strip() for spec in ASKED}
    if "cell" in request.args:
        asked |= {end: _principal(asked[end]) for end in ("from", "to")}
    answer = _explained(asked)
    return render(
        "reachability.html",
        title="Reachability",
        status=200 if answer is None else answer.status,
        matrix=matrix,
        fields=ASKED,
        asked=asked,
        why=answer.body if answer is not None and answer.is_ok else None,
        faults=_faults(answer),
        offered=offered(ASKED),
        ways=_ways(down, across, matrix["total"]),
        at={"down": down, "across": across},
        shown=SHOWN,
    )


def _principal(name: str) -> str:
    """NAME of a cell, so that it cannot mean a node that is called so and is somebody else."""
    for kind, path in (("identity", "/identities"), ("resource", "/resources")):
        if ask("GET", at(path, name)).is_ok:
            return f"{kind}:{name}"
    return name


def _explained(asked: dict[str, str]) -> Answer | None:
    """What /explain says of the two ends that are asked about; None: of none."""
    if not asked["from"] and not asked["to"]:
        return None
    answer = ask("GET", "/explain", query={k: v for k, v in asked.items() if v})
    if not answer.is_ok and answer.status != 422:
        raise Refusal(answer)
    return answer


def _faults(answer: Answer | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, message in answer.faults if answer is not None else ():
        found.setdefault(path, []).append(message)
    return found


def _offset(name: str) -> int:
    text = request.args.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        abort(404)
    return int(text)


def _ways(down: int, across: int, total: int) -> list[dict[str, Any]]:
    """Links to the neighbouring parts of the matrix, where there are some."""
    steps = (
        ("Up", down - SHOWN, across),
        ("Down", down + SHOWN, across),
        ("Left", down, across - SHOWN),
        ("Right", down, across + SHOWN),
    )
    return [
        {"title": title, "href": f"/ui/reachability?{urlencode({'down': y, 'across': x})}"}
        for title, y, x in steps
        if 0 <= y < total and 0 <= x < total
    ]
