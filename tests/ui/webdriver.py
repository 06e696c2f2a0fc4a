"""A browser by the W3C WebDriver protocol, as far as these tests speak it.

Requests are JSON over loopback (https://www.w3.org/TR/webdriver2/, section 8.1 has the table of
endpoints); chromedriver adds `/se/log` and `/goog/cdp/execute`.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import urllib3

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # section 11.1: the key of an element's reference
TAB, ENTER, SPACE, END, HOME = "\ue004", "\ue007", "\ue00d", "\ue010", "\ue011"
DOWN, SHIFT_TAB = "\ue015", "\ue008\ue004\ue008"
PATIENCE_S = 15.0
T = TypeVar("T")


class DriverError(Exception):
    """The driver said no; `code` is its word for it ("no such element")."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Element:
    """Something on the page."""

    browser: Browser
    id: str

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return self.browser.ask(method, f"/element/{self.id}/{path}", body)

    @property
    def text(self) -> str:
        return str(self._ask("GET", "text"))

    def click(self) -> None:
        self._ask("POST", "click", {})

    def type(self, text: str) -> None:
        """Type TEXT in the place of what is there."""
        self._ask("POST", "clear", {})
        self._ask("POST", "value", {"text": text})

    def attribute(self, name: str) -> str | None:
        value = self._ask("GET", f"attribute/{name}")
        return None if value is None else str(value)

    def property(self, name: str) -> Any:
        return self._ask("GET", f"property/{name}")

    def css(self, name: str) -> str:
        return str(self._ask("GET", f"css/{name}"))


class Browser:
    """One session of one browser."""

    def __init__(self, pool: urllib3.HTTPConnectionPool, capabilities: dict[str, Any]) -> None:
        self._pool = pool
        self._session = ""
        made = self.ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/{made['sessionId']}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One command; DriverError if it is refused."""
        answer = self._pool.request(method, f"/session{self._session}{path}", json=body)
        value = answer.json()["value"]
        if answer.status >= 400:
            raise DriverError(value["error"], value["message"])
        return value

    def quit(self) -> None:
        self.ask("DELETE", "")

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self.ask("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self.ask("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self.ask("GET", "/title"))

    def all(self, css: str) -> list[Element]:
        found = self.ask("POST", "/elements", {"using": "css selector", "value": css})
        return [Element(self, each[ELEMENT]) for each in found]

    def one(self, css: str) -> Element:
        """The first that CSS selects, waited for."""
        return self.until(lambda: next(iter(self.all(css)), None), css)

    def link(self, text: str) -> Element:
        """The first link that says TEXT."""
        return self._by("link text", text)

    def _by(self, using: str, value: str) -> Element:
        def look() -> Element | None:
            found = self.ask("POST", "/elements", {"using": using, "value": value})
            return Element(self, found[0][ELEMENT]) if found else None

        return self.until(look, value)

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """What LOOK finds, as soon as it finds something."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if found := look():
                    return found
            except DriverError as error:  # the page is just being replaced
                if error.code not in ("stale element reference", "no such element"):
                    raise
            if time.monotonic() > deadline:
                raise AssertionError(f"never: {what}, at {self.url}:\n{self.text}")
            time.sleep(0.02)

    def fill(self, **values: str) -> None:
        """Type into the fields of these names; into a list, what its option is called."""
        for name, value in values.items():
            self.one(f'[name="{name}"]').type(value)

    def choose(self, name: str, value: str) -> None:
        """An option of a list."""
        self.one(f'select[name="{name}"] option[value="{value}"]').click()

    def press(self, text: str) -> None:
        """The button of the page that says TEXT; returns on the page that answers."""
        self._by("xpath", f'//main//button[normalize-space()="{text}"]').click()

    def keys(self, text: str) -> None:
        """Press and release each key of TEXT, wherever the focus is."""
        actions: list[dict[str, str]] = []
        held: set[str] = set()
        for key in text:
            if key == "\ue008":  # shift: down, and at its next appearance up
                actions.append({"type": "keyUp" if key in held else "keyDown", "value": key})
                held ^= {key}
            else:
                actions += [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.ask("POST", "/actions", {"actions": [source]})

    @property
    def focused(self) -> Element:
        return Element(self, self.ask("GET", "/element/active")[ELEMENT])

    @property
    def text(self) -> str:
        """All that can be read on the page."""
        return self.all("body")[0].text

    def run(self, script: str, *arguments: Any) -> Any:
        """What SCRIPT returns, on the page."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def size(self, width: int, height: int) -> None:
        """The size of what can be seen, in CSS pixels, as a phone or a desktop has it."""
        metrics: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1}
        metrics["mobile"] = width < 600  # then its scroll bars take no room
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """What prefers-color-scheme says: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self) -> list[dict[str, Any]]:
        """What the browser complained of since this was asked last."""
        found: list[dict[str, Any]] = self.ask("POST", "/se/log", {"type": "browser"})
        return found

    def cookies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/cookie")
        return found

    def forget(self) -> None:
        """Every cookie."""
        self.ask("DELETE", "/cookie")

    def screenshot(self, path: Path) -> None:
        """The whole page, as a PNG."""
        parameters = {"captureBeyondViewport": True, "format": "png"}
        shot = self.devtools("Page.captureScreenshot", parameters)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path, trusted_key: str) -> Iterator[Browser]:
    """A Chromium that trusts one server: TRUSTED_KEY is the SHA-256 of its public key, base64."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium is not None and driver is not None
    options = [
        "--headless=new",
        "--no-sandbox",  # Chromium refuses to run as root with its sandbox
        "--disable-dev-shm-usage",  # /dev/shm is small in containers
        "--disable-gpu",
        "--js-flags=--max-old-space-size=128",  # MB: its memory is limited
        "--renderer-process-limit=1",
        f"--user-data-dir={profile}",
        f"--ignore-certificate-errors-spki-list={trusted_key}",
        # Nothing but the one server is asked for anything.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with (profile.parent / "chromedriver.log").open("wb") as log:
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=log)
    try:
        pool = urllib3.HTTPConnectionPool("127.0.0.1", _port(process), timeout=60, retries=False)
        capabilities = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": chromium, "args": options},
        }
        made = Browser(pool, capabilities)
        try:
            yield made
        finally:
            made.quit()
            pool.close()
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _port(process: subprocess.Popen[bytes]) -> int:
    """What the driver says that it listens on, in its first lines."""
    assert process.stdout is not None
    for line in process.stdout:
        if b"successfully on port " in line:
            return int(line.rsplit(b"on port ", 1)[1].rstrip(b".\n "))
    raise AssertionError(f"chromedriver ended with {process.wait()}")
