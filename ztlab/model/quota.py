"""Rates and sizes as a policy writes them: "10mbit", "256kB"."""

from __future__ import annotations

import re

# Bits per second, as tc(8) has them, all decimal.
_RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "KiB": 2**10, "MiB": 2**20}
RATE_PATTERN = f"^[1-9][0-9]{{0,11}}({'|'.join(_RATES)})$"
BURST_PATTERN = f"^[1-9][0-9]{{0,11}}({'|'.join(_SIZES)})$"
_RATE_MIN, _RATE_MAX = 10**3, 400 * 10**9  # bits per second
_SIZE_MIN, _SIZE_MAX = 1500, 10**9  # bytes: at least one full packet


def parse_rate(text: str) -> int:
    """ "10mbit" as bytes per second; ValueError for anything else than 1kbit to 400gbit."""
    bits = _parse(text, _RATES, "10mbit")
    if not _RATE_MIN <= bits <= _RATE_MAX:
        raise ValueError(f"want a rate from 1kbit to 400gbit, got {text!r}")
    return bits // 8


def parse_burst(text: str) -> int:
    """ "256kB" as bytes; ValueError for anything else than 1500B to 1000MB."""
    size = _parse(text, _SIZES, "256kB")
    if not _SIZE_MIN <= size <= _SIZE_MAX:
        raise ValueError(f"want a burst from 1500B to 1000MB, got {text!r}")
    return size


def _parse(text: str, units: dict[str, int], example: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,11})([A-Za-z]+)", text, flags=re.ASCII)
    if match is None or match[2] not in units:
        raise ValueError(
            f"want a whole number and one of {', '.join(units)}, like {example}, got {text!r}"
        )
    return int(match[1]) * units[match[2]]
