"""What an agent imports before it loads its programs; each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys


def said(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_only_services_need_is_not_imported_before_the_programs_are_loaded() -> None:
    services = ("urllib3", "prometheus_client", "agent.session", "agent.metrics", "bcc")
    late = (*services, "pyroute2", "pyroute2.iproute", "agent.daemon")
    program = "import sys, agent.serve; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    program = f"import sys; sys.argv[1:] = {late!r} + ('agent.datapath.datapath',); {program}"
    assert said(program) == "agent.datapath.datapath"  # the control: that one is


def test_protobuf_is_imported_for_a_collector_and_for_nobody_else() -> None:
    names = "[m for m in ('google.protobuf', 'opentelemetry') if m in sys.modules]"
    services = "import sys, agent.sinks, agent.flowlog, agent.metrics, agent.session"
    assert said(f"{services}; print(*{names})") == ""
    assert said(f"import sys, agent.otlp.sink; print(*{names})") == "google.protobuf opentelemetry"


def test_all_of_pyroute2_is_there_for_whoever_asks_after_the_agent_took_its_part() -> None:
    program = (
        "import sys, agent.netlink; assert 'pyroute2.ndb' not in sys.modules; "
        "from pyroute2 import IPRoute, NDB, netlink; import pyroute2; "
        "print(IPRoute is agent.netlink.IPRoute, NDB.__module__, pyroute2.NetNS.__name__)"
    )
    assert said(program) == "True pyroute2.ndb.main NetNS"


def test_the_agent_uses_the_pyroute2_that_somebody_imported_before() -> None:
    program = "import pyroute2, agent.netlink; print(agent.netlink.IPRoute is pyroute2.IPRoute)"
    assert said(program) == "True"
