"""How slow this machine is: one factor for all that labs and scenarios wait for.

ZTLAB_TIME_SCALE=3 makes every deadline three times as long. `ztlab vm` sets it in its guests, which
are slower than the host; a loaded machine may want it too. What a scenario calls a second is then
three of the clock's: its deadlines, and the times for which something must hold or stay away.
"""

from __future__ import annotations

import math
import os

from ztlab.errors import ZtError

VARIABLE = "ZTLAB_TIME_SCALE"


def factor() -> float:
    """The factor, at least 1; ZtError if the variable has none."""
    text = os.environ.get(VARIABLE, "1")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise ZtError(
            f"{VARIABLE}={text}: want a number of at least 1",
            hint=f"unset {VARIABLE}, or set it to 3 on a machine three times as slow",
        )
    return number


def scaled(seconds: float) -> float:
    """So many seconds of the clock are SECONDS of a plan."""
    return seconds * factor()
