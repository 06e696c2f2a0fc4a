"""Settings for every test: hypothesis without a stop-watch, and repeatable in CI."""

from __future__ import annotations

import os

from hypothesis import settings

# The machine is shared with labs and their traffic: how long one example takes says nothing.
settings.register_profile("ztlab", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ztlab")
