"""What a look at the host said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ztlab.model.verdict import Hook

REPAIRED = ("interface", "link", "programs", "belt", "masquerading", "sysctls", "drift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Is everything in place, and how often was it not?

    drift         violations of "the identity map refines AllowedIPs"; must be 0
    policy_drift  entries of the policy in force that the maps have otherwise; must be 0
    belt_drops    packets that came out of the tunnel unjudged, since the belt was put on
    repairs       what somebody took away to how often it was put back
    """

    attached: Mapping[Hook, bool]
    belt_installed: bool
    drift: int = 0
    policy_drift: int = 0
    belt_drops: int = 0
    repairs: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(REPAIRED, 0))
