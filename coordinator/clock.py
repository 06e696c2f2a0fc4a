"""UTC wall time and its one spelling."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """This instant, timezone-aware UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """`2026-01-31T12:00:00.123456Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def rfc3339_or_none(at: datetime | None) -> str | None:
    """Likewise; None stays None."""
    return None if at is None else rfc3339(at)


def parse_rfc3339(text: str) -> datetime:
    """The instant that TEXT names; ValueError if it is malformed or has no UTC offset."""
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):  # an offset may lead out of the years 1 to 9999
        pass
    raise ValueError(f"want an RFC 3339 time with its offset, got {text!r}")
