"""What a test needs of the machine: probed, never assumed.

A test (or a scenario) marked `root`, `bpf`, `wireguard`, `kernel_wireguard` or `lab` is skipped
where that is missing, and the reason says what. `ZT_REQUIRE=root,bpf` turns such a skip into a
failure: CI lists what its machine must have, so that nothing goes untested without a word.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork")


def complaint_of(*command: str) -> str:
    """Run COMMAND: nothing if it succeeds, else its last error, or its last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    lines = [line for line in lines if line.startswith("error: ")] or lines
    return lines[-1] if lines else f"`{' '.join(command)}` failed"


def lacks_root() -> str:
    if os.geteuid() != 0:
        return "not root"
    complaint = complaint_of(*UNSHARE, "true")
    return complaint and f"root may not make namespaces here ({complaint})"


def lacks_bpf() -> str:
    return lacks("root") or complaint_of(sys.executable, str(HERE / "tools/probe_bcc.py"))


def lacks_kernel_wireguard() -> str:
    add = ("ip", "link", "add", "ztwg", "type", "wireguard")
    complaint = lacks("root") or complaint_of(*UNSHARE, *add)
    return complaint and f"the kernel has no WireGuard ({complaint})"


def lacks_wireguard() -> str:
    kernel = lacks("kernel_wireguard")
    if not kernel:
        return ""
    if shutil.which("wireguard-go") is None:
        return f"{kernel}, and wireguard-go is not installed"
    complaint = complaint_of(*UNSHARE, "ip", "tuntap", "add", "zttun", "mode", "tun")
    return complaint and f"{kernel}, and there is no tun device for wireguard-go ({complaint})"


def lacks_lab() -> str:
    for tool in ("ip", "nft", "tc", "bpftool"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return lacks("root") or lacks("bpf") or lacks("wireguard")


def lacks_vagrant() -> str:
    return "" if shutil.which("vagrant") else "vagrant is not installed"


def lacks_prometheus() -> str:
    """Installed, or unpacked by tools/prometheus.sh."""
    unpacked = str(HERE / "build" / "prometheus" / "usr" / "bin")
    path = f"{os.environ.get('PATH', '')}:{unpacked}"
    missing = [tool for tool in ("prometheus", "promtool") if not shutil.which(tool, path=path)]
    return f"no {' and no '.join(missing)}: tools/prometheus.sh gets them" if missing else ""


def lacks_browser() -> str:
    missing = [tool for tool in ("chromium", "chromedriver") if shutil.which(tool) is None]
    return f"no {' and no '.join(missing)}: tools/browser.sh installs them" if missing else ""


def lacks_postgres() -> str:
    """The server's programs; the tests start one themselves."""
    there = any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return "" if there else "no PostgreSQL server is installed: tools/postgresql.sh installs it"


def lacks_guest() -> str:
    if engine := os.environ.get("ZTLAB_VM"):
        return f"this is a guest already, by {engine}"
    program = "from ztlab.cli import main; main()"
    return complaint_of(sys.executable, "-c", program, *"vm run --engine uml -- true".split())


PROBES: dict[str, Callable[[], str]] = {
    "root": lacks_root,
    "bpf": lacks_bpf,
    "wireguard": lacks_wireguard,
    "kernel_wireguard": lacks_kernel_wireguard,
    "lab": lacks_lab,
    "guest": lacks_guest,
    "vagrant": lacks_vagrant,
    "prometheus": lacks_prometheus,
    "browser": lacks_browser,
    "postgres": lacks_postgres,
}


@functools.cache
def lacks(need: str) -> str:
    """Why this machine does not have NEED; nothing if it does. Probed once per process."""
    return PROBES[need]()


def required() -> frozenset[str]:
    """The words of ZT_REQUIRE."""
    words = re.split(r"[\s,]+", os.environ.get("ZT_REQUIRE", ""))
    return frozenset(word.replace("-", "_") for word in words if word)


def pytest_configure(config: pytest.Config) -> None:
    if unknown := required() - PROBES.keys():
        raise pytest.UsageError(
            f"ZT_REQUIRE: nobody knows {', '.join(sorted(unknown))}; known: {', '.join(PROBES)}"
        )


def needs_of(item: pytest.Item) -> list[str]:
    """What ITEM is marked with; where the kernel's WireGuard is demanded, no other will do."""
    needs = [need for need in PROBES if item.get_closest_marker(need) is not None]
    if "kernel_wireguard" in required() and {"wireguard", "lab"} & set(needs):
        needs.append("kernel_wireguard")
    return needs


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in needs_of(item):
        if reason := lacks(need):
            text = f"needs {need}: {reason}"
            if need in required():
                pytest.fail(f"{text}, and ZT_REQUIRE demands it", pytrace=False)
            pytest.skip(text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each missing part, with the number of tests that it kept from running."""
    missing: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if found := re.search(r"needs (\w+: .*)", reason):
            missing[found[1]] += 1
    if missing:
        terminalreporter.section("not tested on this machine")
        for need, count in sorted(missing.items()):
            terminalreporter.write_line(f"{count} for want of {need}")
