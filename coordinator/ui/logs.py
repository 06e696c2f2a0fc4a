"""Log events, the newest page first, filtered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import Response, request

from coordinator.ui.inside import Answer, Refusal, ask
from coordinator.ui.page import blueprint, render
from ztlab.model.verdict import Verdict

SHOWN = 100
_TIMES = frozenset({"since", "until"})
FILTERS = ("node", "identity", "verdict", "kind", "since", "until")
KINDS = {  # docs/PROTOCOL.md, Event
    "flow": "a flow's first packet, or a denial",
    "update": "a flow that goes on",
    "end": "a flow that ended",
    "packet": "any other packet",
}


@blueprint.get("/logs")
def logs() -> Response:
    given = {name: request.args.get(name, "").strip() for name in FILTERS}
    cursors = {name: request.args[name] for name in ("after", "before") if request.args.get(name)}
    query = {name: text for name, text in given.items() if text}
    query |= {**cursors, "limit": str(SHOWN)}
    for name in _TIMES & query.keys():
        query[name] = _instant(query[name])
    answer = ask("GET", "/logs", query=query)
    if not answer.is_ok and answer.status != 422:
        raise Refusal(answer)
    page = answer.body if answer.is_ok else {"items": [], "next": None, "previous": None}
    return render(
        "logs.html",
        title="Logs",
        status=answer.status,
        filters=given,
        verdicts=[verdict.word for verdict in Verdict],
        kinds=KINDS,
        events=page["items"],
        are_filtered=bool(cursors or any(given.values())),
        older=_address(given, "before", page["previous"]),
        newer=_address(given, "after", page["next"]),
        faults=_faults(answer),
    )


def _address(given: Mapping[str, str], name: str, cursor: int | None) -> str | None:
    """Of the page beyond CURSOR, filtered likewise; None: there is none."""
    filters = {key: text for key, text in given.items() if text}
    return None if cursor is None else f"/ui/logs?{urlencode({**filters, name: cursor})}"


def _faults(answer: Answer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, message in answer.faults:
        found.setdefault(path, []).append(message)
    return found


def _instant(text: str) -> str:
    """What `datetime-local` gives has no offset and means UTC here, as every time that is shown."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text  # the API says what it wants
    return text if at.tzinfo is not None else at.replace(tzinfo=UTC).isoformat()
