"""What the data plane did with a packet, and why: the words and their numbers.

The numbers are bpf/zt_abi.h's; a contract test compares the two. A number is never reused or moved.
"""

from __future__ import annotations

from enum import IntEnum


class Verdict(IntEnum):
    """One packet's fate. The names, in lower case, are what metrics, logs and scenarios say."""

    ALLOWED = 1  # first packet of a flow, judged here and let through
    ESTABLISHED = 2  # belongs to a flow that was let through
    OBSERVED = 3  # identified and counted, not judged here (observe mode, or judged elsewhere)

    # Drop reasons: from 16 up.
    NO_RULE = 16  # no rule matched and the default is deny
    DENY_RULE = 17  # a deny rule matched
    UNKNOWN_SOURCE = 18  # the source belongs to no identity
    UNKNOWN_DESTINATION = 19  # into the tunnel, for an address no identity owns
    SPOOFED_SOURCE = 20  # an address of a WireGuard peer, from another interface
    FRAGMENT = 21  # a fragment without the verdict of its first
    MALFORMED = 22  # not parsable as IP, TCP, UDP or ICMP
    UNSUPPORTED_PROTOCOL = 23  # an IPv6 extension header we do not walk
    NOT_ESTABLISHED = 24  # on a client: not part of a flow the client opened
    OVER_QUOTA = 25  # the identity used up its token bucket
    MAP_FULL = 26  # no room to remember the flow

    @property
    def is_drop(self) -> bool:
        """True where the packet did not go on."""
        return self >= Verdict.NO_RULE

    @property
    def word(self) -> str:
        """The spelling outside Python: `no_rule`."""
        return self.name.lower()

    @classmethod
    def from_word(cls, word: str) -> Verdict:
        """The verdict spelled WORD; ValueError for a word nobody uses."""
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(f"no verdict is spelled {word!r}") from None


class Hook(IntEnum):
    """Where on the WireGuard interface a packet was seen."""

    INGRESS = 0  # came out of the tunnel
    EGRESS = 1  # is about to enter the tunnel

    @property
    def word(self) -> str:
        return self.name.lower()


class AuthzMode(IntEnum):
    """A node's own, local switch: is policy enforced here?"""

    OBSERVE = 0
    ENFORCE = 1

    @property
    def word(self) -> str:
        return self.name.lower()


DROP_REASONS: tuple[Verdict, ...] = tuple(v for v in Verdict if v.is_drop)
