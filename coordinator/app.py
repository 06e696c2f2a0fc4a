"""The Flask application: the parts put together, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network

from flask import Flask, Response
from sqlalchemy import select

from coordinator import secrets
from coordinator.api import authorities, node, problems, refusals, rotation, table, timing
from coordinator.api.context import EXTENSION, Service
from coordinator.certificates import Certificates
from coordinator.contacts import Contacts
from coordinator.hub import Hub
from coordinator.refusals import Refusals
from coordinator.settings import Settings
from coordinator.store.engine import Store
from coordinator.store.models import NetworkRow
from coordinator.ui import pages
from ztlab.errors import ZtError

MAX_BODY_BYTES = 8 * 1024 * 1024


def create_app(settings: Settings, certificates: Certificates | None = None) -> Flask:
    """The coordinator of SETTINGS as a WSGI application; ZtError before `init`.

    certificates  of the server that serves it; None: read here
    """
    store = Store(settings.database_url)
    with store.reading() as session:
        network_id = session.scalar(select(NetworkRow.network_id))
    if network_id is None:
        raise ZtError("the store has no network", hint="run `zt-coordinator init --config FILE`")
    app = Flask("coordinator", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    # Flask would answer OPTIONS by itself, before anybody was asked who they are.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # `//nodes` is not found: a redirect would be HTML, and lead wherever the Host header says.
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = Service(
        store=store,
        hub=Hub(),
        contacts=Contacts(store),
        certificates=certificates or Certificates(settings),
        network_id=network_id,
        challenge_key=secrets.challenge_key(settings.directory),
        token_ttl=timedelta(seconds=settings.token_ttl_s),
        refusals=Refusals(settings.limits),
        trusted_proxies=tuple(ip_network(proxy) for proxy in settings.trusted_proxies),
    )
    app.register_blueprint(node.blueprint, url_prefix="/api/v1")
    app.register_blueprint(rotation.blueprint, url_prefix="/api/v1")
    app.register_blueprint(authorities.blueprint, url_prefix="/api/v1")
    app.register_blueprint(table.blueprint(), url_prefix="/api/v1")
    app.after_request(_not_kept)
    timing.install(app)
    pages.install(app)
    problems.install(app)
    refusals.install(app)
    return app


def _not_kept(response: Response) -> Response:
    """Tokens and keys are in answers, and what a network looks like: no cache keeps any, unless a
    view says otherwise."""
    response.headers.setdefault("Cache-Control", "no-store")
    return response
