"""What `zt-agent status` says: everything an operator may know, and no secret."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agent.wireguard.backend import WgPeer
from ztlab.model import codec
from ztlab.model.config import NodeConfig

if TYPE_CHECKING:
    from agent.daemon import Agent


def status(agent: Agent) -> dict[str, Any]:
    """The document behind `status --json`."""
    applied = agent.last_good.current
    config = applied.config if applied else None
    switches = agent.switches.current
    health = agent.sync.health
    counts = agent.flowlog.counts()
    pins = agent.programs.pins
    return {
        "name": config.node.name if config else agent.settings.name,
        "node_id": config.node.node_id if config else None,
        "network_id": config.network_id if config else None,
        "role": config.node.role if config else None,
        "identity": config.node.identity if config else None,
        "addresses": list(config.node.addresses) if config else [],
        "public_key": agent.key.public_key,
        "client_id": agent.key.client_id,
        "rotation": codec.encode(agent.rotation.status) if agent.rotation else None,
        "pid": os.getpid(),
        "version": agent.version,
        "authz_mode": switches.authz_mode.word,
        "logging_enabled": switches.logging_enabled,
        "overridden": list(agent.switches.overridden),
        "log_granularity": agent.settings.log_granularity,
        "interface": agent.settings.wireguard.interface,
        "wireguard": agent.sync.backend_kind,
        "loader": agent.datapath.loader,
        "loader_reason": agent.datapath.loader_reason,
        "origin": agent.datapath.origin,
        "pinned_in": str(pins.directory) if pins else None,
        "unpinned_reason": agent.programs.unpinned_reason,
        "attached": {hook.word: on for hook, on in health.attached.items()},
        "belt_installed": health.belt_installed,
        "identity_drift": health.drift,
        "flows": agent.datapath.flow_count(),
        "revision": codec.encode(applied.revision) if applied else None,
        "digest": config.digest() if config else None,
        "applies": dict(agent.applies),
        "last_refusal": agent.last_refusal,
        "coordinator": _coordinator(agent),
        "log_sink": agent.sink.status() if agent.sink else None,
        "log_events": asdict(counts) | {"in_flight": counts.in_flight},
        "peers": _peers(config, agent.sync.peers()) if config else [],
    }


def in_one_line(agent: Agent) -> str:
    """What `systemctl status` shows of it."""
    applied = agent.last_good.current
    mode = agent.switches.current.authz_mode.word
    has = f"revision {applied.revision.number}" if applied else "no configuration yet"
    return f"{mode}, {has}, {_whom_it_obeys(agent)}"


def _whom_it_obeys(agent: Agent) -> str:
    if agent.session is None:
        return "standalone"
    session = agent.session.status
    if session.is_connected:
        return "connected to its coordinator"
    return "enrolled, not connected" if session.is_enrolled else "not enrolled yet"


def _coordinator(agent: Agent) -> dict[str, Any] | None:
    if agent.session is None or agent.settings.coordinator is None:
        return None
    return {"url": agent.session.url} | asdict(agent.session.status)


def _peers(config: NodeConfig, there: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": peer.name,
            "node_id": peer.node_id,
            "role": peer.role,
            "client_id": peer.client_id,
        }
        | _live(there.get(peer.public_key))
        for peer in config.peers
    ]


def _live(peer: WgPeer | None) -> dict[str, Any]:
    if peer is None:
        return {
            "endpoint": None,
            "allowed_ips": [],
            "last_handshake_at": None,
            "rx_bytes": 0,
            "tx_bytes": 0,
            "has_preshared_key": False,
        }
    at = peer.last_handshake_at
    return {
        "endpoint": str(peer.endpoint) if peer.endpoint else None,
        "allowed_ips": sorted(peer.allowed_ips),
        "last_handshake_at": _rfc3339(at) if at else None,
        "rx_bytes": peer.rx_bytes,
        "tx_bytes": peer.tx_bytes,
        "has_preshared_key": peer.preshared_key is not None,
    }


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
