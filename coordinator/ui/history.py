"""What happened: the audit log; the revisions, how each differs from now, and back to it."""

from __future__ import annotations

from urllib.parse import quote

from flask import Response, abort, request
from werkzeug.wrappers import Response as AnyResponse

from coordinator.ui import guard
from coordinator.ui.changes import changes
from coordinator.ui.inside import Answer, Refusal, ask, get
from coordinator.ui.kinds import AUDIT, REVISIONS, may
from coordinator.ui.listing import listed
from coordinator.ui.page import blueprint, go, render


@blueprint.get("/audit")
def audit() -> Response:
    page = listed(AUDIT)
    rows = [{**row, "changes": changes(row["before"], row["after"])} for row in page.items]
    return render("audit.html", title="Audit", kind=AUDIT, page=page, rows=rows)


@blueprint.post("/audit/verify")
def verification() -> Response:
    answer = ask("GET", "/audit/verify")
    if not answer.is_ok:
        raise Refusal(answer)
    return render("verified.html", title="Audit log verified", found=answer.body)


@blueprint.get("/revisions")
def revisions() -> Response:
    present = get("/network").body["revision"]
    page = listed(REVISIONS)
    return render("revisions.html", title="Revisions", kind=REVISIONS, page=page, present=present)


@blueprint.get("/revisions/<epoch>/<int:number>")
def revision(epoch: str, number: int) -> Response:
    return _revision(epoch, number)


@blueprint.post("/revisions/<epoch>/<int:number>/rollback")
def roll_back(epoch: str, number: int) -> AnyResponse:
    if not may(guard.browser().role, "editor"):
        abort(403, "This needs the role editor.")
    # What goes back is what was looked at, and nothing that somebody wrote since.
    seen = request.form.get("present", "")
    answer = ask("POST", f"/revisions/{quote(epoch, safe='')}/{number}/rollback", tag=f'"{seen}"')
    if answer.is_ok:
        return go("revisions")
    if answer.status == 412:
        return _revision(epoch, number, has_moved=True)
    return _revision(epoch, number, answer)


def _revision(
    epoch: str, number: int, answer: Answer | None = None, *, has_moved: bool = False
) -> Response:
    present = _present()
    found = get(f"/revisions/{quote(epoch, safe='')}/{number}", {"against": "present"}).body
    differences = [
        {**one, "changes": changes(one["before"], one["after"])} for one in found["differences"]
    ]
    return render(
        "revision.html",
        title=f"Revision {number}",
        status=412 if has_moved else 200 if answer is None else answer.status,
        since=found["since"],
        at=f"{epoch}/{number}",
        differences=differences,
        present=present,
        answer=answer,
        has_moved=has_moved,
    )


def _present() -> str:
    now = get("/network").body["revision"]
    return f"{now['epoch']}/{now['number']}"
