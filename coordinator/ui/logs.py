"""Log events, the newest page first, filtered."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import Response, request

from coordinator.ui.inside import Answer, Refusal, ask
from coordinator.ui.page import blueprint, render
from ztlab.model.verdict import Verdict

SHOWN = 100
_TIMES = frozenset({"since", "until"})
FILTERS = ("node", "identity", "verdict", "since")


@blueprint.get("/logs")
def logs() -> Response:
    given = {name: request.args.get(name, "").strip() for name in FILTERS}
    after = request.args.get("after", "")
    query = {name: text for name, text in given.items() if text} | {"limit": str(SHOWN)}
    if after:
        query["after"] = after
    for name in _TIMES & query.keys():
        query[name] = _instant(query[name])
    answer = ask("GET", "/logs", query=query)
    if not answer.is_ok and answer.status != 422:
        raise Refusal(answer)
    cursor = answer.body["next"] if answer.is_ok else None
    return render(
        "logs.html",
        title="Logs",
        status=answer.status,
        filters=given,
        verdicts=[verdict.word for verdict in Verdict],
        events=answer.body["items"] if answer.is_ok else [],
        cursor=cursor,
        after=after,
        newer=f"/ui/logs?{urlencode({**given, 'after': cursor})}",
        faults=_faults(answer),
    )


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
