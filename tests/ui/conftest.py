"""One browser and one coordinator for all tests of the pages; what a page complains of fails.

Chromium runs as root, so without its sandbox, and with little memory: it sees nothing but what
the coordinator of this test says, and is given a profile of its own that goes with the test run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.control.process import Coordinator, running
from tests.ui.webdriver import Browser
from tests.ui.webdriver import browser as started

SCREENSHOTS = Path(__file__).parent.parent.parent / "build" / "screenshots"
DESKTOP = (1200, 900)
PHONE = (360, 740)
# The console also repeats each status that a page came with, which is no fault of the page.
_STATUS = re.compile(r"Failed to load resource: the server responded with a status of 4(09|12|22)")


@pytest.fixture(scope="session")
def coordinator() -> Iterator[Coordinator]:
    with running() as here:
        yield here


@pytest.fixture(scope="session")
def chromium(
    coordinator: Coordinator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    pem = (coordinator.directory / "state/server.pem").read_bytes()
    key = x509.load_pem_x509_certificate(pem).public_key()
    raw = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(raw).digest()).decode()
    with started(tmp_path_factory.mktemp("chromium") / "profile", pin) as made:
        yield made


@pytest.fixture
def page(chromium: Browser, coordinator: Coordinator) -> Iterator[Browser]:
    """The browser, logged out, at a desktop's size; no page may have offended its own policy."""
    chromium.size(*DESKTOP)
    chromium.prefer("light")
    chromium.open(f"{coordinator.url}/ui/login")
    chromium.forget()
    chromium.open(f"{coordinator.url}/ui/login")
    chromium.console()
    yield chromium
    assert complaints(chromium) == []


@pytest.fixture
def inside(page: Browser, coordinator: Coordinator) -> Browser:
    """Logged in as the owner."""
    log_in(page, coordinator.owner)
    return page


def log_in(page: Browser, token: str) -> None:
    page.fill(token=token)
    page.press("Log in")
    page.one("nav[aria-label=Sections]")


def complaints(page: Browser) -> list[str]:
    """What the console says, but for the statuses of refused forms."""
    said = [entry["message"] for entry in page.console()]
    return [message for message in said if not _STATUS.search(message)]


def shot(page: Browser, name: str) -> None:
    """Keep a picture of the whole page."""
    page.screenshot(SCREENSHOTS / f"{name}.png")
