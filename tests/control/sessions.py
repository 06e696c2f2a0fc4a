"""An agent's session with a coordinator, without the rest of the agent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.keys import NodeKey
from agent.session import Session
from agent.settings import CoordinatorSettings, Settings
from ztlab.model.config import NodeConfig, Revision
from ztlab.model.verdict import AuthzMode


def node_settings(directory: Path, url: str | tuple[str, ...], name: str) -> Settings:
    """Of the node NAME that keeps everything in DIRECTORY, its setup key too."""
    return Settings(
        name=name,
        authz_mode=AuthzMode.ENFORCE,
        logging_enabled=True,
        state_dir=str(directory),
        coordinator=CoordinatorSettings(url=url, setup_key_file=str(directory / "setup-key")),
    )


def new_session(
    settings: Settings,
    key: NodeKey,
    *,
    apply: Callable[[Revision, NodeConfig], None],
    confirm: Callable[[Revision, str], None] = lambda revision, digest: None,
    have: Callable[[], NodeConfig | None] = lambda: None,
) -> Session:
    """Not started yet; where it waits at random, always as long."""
    assert settings.coordinator is not None
    return Session(
        settings,
        settings.coordinator,
        key,
        apply=apply,
        confirm=confirm,
        have=have,
        dice=lambda: 0.5,
    )
