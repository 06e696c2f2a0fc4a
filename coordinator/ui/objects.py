"""Lists and forms of every collection of coordinator/ui/kinds.py: shown, made, edited, deleted."""

from __future__ import annotations

from typing import Any

from flask import Response, abort, request
from werkzeug.wrappers import Response as AnyResponse

from coordinator.ui import forms, guard
from coordinator.ui.changes import changes
from coordinator.ui.forms import Field, Placed
from coordinator.ui.inside import Answer, Refusal, at, get, is_asked_only, write
from coordinator.ui.kinds import GATEWAYS, KINDS, NODES, RULES, SETUP_KEYS, TOKENS, Kind, may
from coordinator.ui.listing import listed
from coordinator.ui.page import blueprint, go, render

_MOST_NAMES = 500  # that a field offers; who has more types
PROTOCOLS = ("any", "tcp", "udp", "icmp")
_SLUGS = "any(" + ", ".join(f"'{slug}'" for slug in KINDS) + ")"


@blueprint.get("/<any(identities, groups, resources, 'setup-keys', administrators):slug>")
def listing(slug: str) -> Response:
    kind = KINDS[slug]
    return render("list.html", title=kind.many, kind=kind, page=listed(kind))


@blueprint.get(f"/<{_SLUGS}:slug>/new")
def creation(slug: str) -> Response:
    kind = _writable(slug, creates=True)
    values = forms.blank(kind.fields)
    values.update({k: v for k, v in request.args.items() if k in values})
    return _form(kind, kind.fields, values, title=f"New {kind.one}")


@blueprint.post(f"/<{_SLUGS}:slug>/new")
def create(slug: str) -> AnyResponse:
    kind = _writable(slug, creates=True)
    answer = write("POST", kind.path, forms.typed(kind.fields, request.form))
    if answer.is_ok and not is_asked_only():
        if kind in (SETUP_KEYS, TOKENS):
            return _shown_once(kind, answer.body)
        return _to_list(kind)
    values = _as_typed(kind.fields)
    title = f"New {kind.one}"
    return _form(kind, kind.fields, values, title=title, answer=answer)


@blueprint.get(f"/<{_SLUGS}:slug>/<name>/edit")
def edition(slug: str, name: str) -> Response:
    kind = _writable(slug)
    found = get(at(kind.path, name))
    values = forms.shown(kind.fields, found.body)
    return _form(kind, _open(kind), values, title=f"Edit {name}", name=name, tag=found.tag)


@blueprint.post(f"/<{_SLUGS}:slug>/<name>/edit")
def edit(slug: str, name: str) -> AnyResponse:
    kind, fields = _writable(slug), _open(_writable(slug))
    tag = request.form.get("etag") or None
    wanted = forms.typed(fields, request.form)
    if kind not in (NODES, GATEWAYS):  # nodes are renamed, and a gateway is a node
        wanted[kind.key] = name
    answer = write("PUT", at(kind.path, name), wanted, tag=tag)
    if answer.is_ok and not is_asked_only():
        if kind is NODES:
            return go("node", name=wanted["name"])
        return _to_list(kind)
    values = _as_typed(fields)
    theirs: dict[str, str] | None = None
    if answer.status == 412:
        # Somebody was faster. Both versions are shown; what is sent next answers to theirs.
        now = get(at(kind.path, name))
        tag, theirs = now.tag, forms.shown(fields, now.body)
    return _form(
        kind, fields, values, title=f"Edit {name}", name=name, tag=tag, answer=answer, theirs=theirs
    )


@blueprint.get(f"/<{_SLUGS}:slug>/<name>/delete")
def deletion(slug: str, name: str) -> Response:
    kind = _deletable(slug)
    found = get(at(kind.path, name))
    return _confirm(kind, name, found)


@blueprint.post(f"/<{_SLUGS}:slug>/<name>/delete")
def delete(slug: str, name: str) -> AnyResponse:
    kind = _deletable(slug)
    answer = write("DELETE", at(kind.path, name), tag=request.form.get("etag") or None)
    if answer.is_ok and not is_asked_only():
        return go("nodes") if kind is NODES else _to_list(kind)
    if answer.status == 404:
        raise Refusal(answer)
    return _confirm(kind, name, get(at(kind.path, name)), answer)


def _writable(slug: str, *, creates: bool = False) -> Kind:
    """The collection, if this browser's role may change it; the API would refuse it as well."""
    kind = KINDS[slug]
    if creates and not kind.can_create:
        abort(404)
    if not may(guard.browser().role, kind.writer):
        abort(403, f"This needs the role {kind.writer}.")
    return kind


def _deletable(slug: str) -> Kind:
    kind = _writable(slug)
    if not kind.can_delete:
        abort(404)
    return kind


def _open(kind: Kind) -> tuple[Field, ...]:
    if not kind.can_edit:
        abort(404)
    return tuple(spec for spec in kind.fields if not spec.is_fixed)


def _to_list(kind: Kind) -> AnyResponse:
    if kind is RULES:
        return go("policy")
    return go("gateways") if kind is GATEWAYS else go("listing", slug=kind.slug)


def _as_typed(fields: tuple[Field, ...]) -> dict[str, str]:
    return {spec.name: request.form.get(spec.name, "") for spec in fields}


def _form(
    kind: Kind,
    fields: tuple[Field, ...],
    values: dict[str, str],
    *,
    title: str,
    name: str = "",
    tag: str | None = None,
    answer: Answer | None = None,
    theirs: dict[str, str] | None = None,
) -> Response:
    placed, status = Placed(), 200
    if answer is not None:
        known = [spec.name for spec in fields]
        own = name or values.get(kind.key, "")
        status = answer.status
        placed = forms.place(answer.faults, known, kind.prefix(own), kind.leftover)
        if not answer.is_ok and not answer.faults:
            placed = Placed(whole=(answer.detail,))
    return render(
        "form.html",
        title=title,
        status=status,
        kind=kind,
        fields=fields,
        values=values,
        placed=placed,
        etag=tag or "",
        theirs=theirs,
        offered=offered(fields),
        preview=preview_of(answer),
    )


def preview_of(answer: Answer | None) -> dict[str, Any] | None:
    """What a form that only asked would change, as the templates show it."""
    if answer is None or not answer.is_ok:
        return None
    found: dict[str, Any] = answer.body["preview"]
    shown = [{**one, "fields": changes(one["before"], one["after"])} for one in found["changes"]]
    return {**found, "changes": shown}


def offered(fields: tuple[Field, ...]) -> dict[str, list[str]]:
    """The names that the fields offer, by what they are names of."""
    wanted = {spec.names for spec in fields}
    found: dict[str, list[str]] = {}
    if "identities" in wanted:
        found["identities"] = _names("/identities")
    if "gateways" in wanted:
        found["gateways"] = _names("/gateways")
    if "groups" in wanted:
        found["groups"] = _names("/groups")
    if "principals" in wanted:
        every = [*_names("/groups"), *_names("/identities"), *_names("/resources")]
        found["principals"] = ["*", "world", *every]
    if "protocols" in wanted:
        found["protocols"] = list(PROTOCOLS)
    return {what: names[:_MOST_NAMES] for what, names in found.items()}


def _names(path: str) -> list[str]:
    return [item["name"] for item in get(path, {"limit": str(_MOST_NAMES)}).body["items"]]


def _confirm(kind: Kind, name: str, found: Answer, answer: Answer | None = None) -> Response:
    return render(
        "confirm.html",
        title=f"{kind.removal} {name}",
        status=200 if answer is None else answer.status,
        kind=kind,
        name=name,
        values=forms.shown(kind.fields, found.body),
        etag=found.tag or "",
        answer=answer if answer is not None and not answer.is_ok else None,
        preview=preview_of(answer),
    )


def _shown_once(kind: Kind, made: dict[str, Any]) -> Response:
    """The only answer that a secret is ever in; it is not kept, and no cache may keep it."""
    secret = made.get("key") or made.get("token")
    origin = request.host_url.rstrip("/")
    return render("secret.html", title=f"New {kind.one}", kind=kind, secret=secret, origin=origin)
