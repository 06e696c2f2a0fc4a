"""The pytest plugin, run by a pytest of its own: what it takes for a scenario, and what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ztlab.pytest_plugin import _lab_name

pytest_plugins = ["pytester"]

SOUND = """\
name: sound
nodes: {a: {}, b: {listen: [tcp/80]}}
steps:
  - name: s
    probe: {from: a, to: b, tcp: 80}
    expect: {answered: true}
"""


def test_a_yaml_file_with_nodes_and_steps_is_a_scenario_and_other_yaml_is_not(
    pytester: pytest.Pytester,
) -> None:
    pytester.makefile(".yaml", sound=SOUND, compose="services: {}\n", nodes="nodes: {}\n")
    pytester.makefile(".yml", other=SOUND)
    pytester.makefile(".txt", text=SOUND)
    pytester.path.joinpath("binary.yaml").write_bytes(b"\xff\xfe\x00")
    result = pytester.runpytest_subprocess("--collect-only", "-q")
    collected = [line for line in result.outlines if "::" in line]
    assert collected == ["other.yml::scenario", "sound.yaml::scenario"]


def test_a_scenario_carries_the_marker_of_a_lab(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", sound=SOUND)
    result = pytester.runpytest_subprocess("--collect-only", "-q", "-m", "not lab")
    result.stdout.fnmatch_lines(["*1 deselected*"])


def test_a_broken_scenario_fails_with_its_faults_and_no_traceback(
    pytester: pytest.Pytester,
) -> None:
    pytester.makefile(".yaml", broken=SOUND.replace("to: b", "to: bb"))
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*broken.yaml:5:26: steps?0?.probe.to: no node is called 'bb'*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


UNFIT = """\
import ztlab.errors, ztlab.lab.lab
def refuse():
    raise ztlab.errors.HostUnfit("ztlab must run as root", hint="sudo ztlab")
ztlab.lab.lab.require_root = refuse
"""


def test_where_no_lab_can_run_the_item_is_skipped_and_says_why(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZT_REQUIRE", raising=False)
    pytester.makeconftest(UNFIT)
    pytester.makefile(".yaml", sound=SOUND)
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no lab on this machine: ztlab must run as root (sudo ztlab)*"])


def test_where_a_lab_is_required_that_skip_is_a_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZT_REQUIRE", "root,lab")
    pytester.makeconftest(UNFIT)
    pytester.makefile(".yaml", sound=SOUND)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZT_REQUIRE names lab, but*ztlab must run as root*"])


def test_a_pytest_without_scenarios_pays_for_none_of_it() -> None:
    heavy = ("yaml", "rich", "prometheus_client", "ztlab.lab", "ztlab.scenario", "pyroute2")
    program = (
        "import sys; before = set(sys.modules); import ztlab.pytest_plugin; "
        f"print(sorted(m for m in {heavy!r} if m in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("base", ["3node", "a-name-of-exactly-32-characters-"])
def test_a_labs_name_is_this_processes_own_and_fits(base: str, pytestconfig: pytest.Config) -> None:
    import os

    name = _lab_name(base, pytestconfig)
    assert name.endswith(str(os.getpid()))
    assert len(name) <= 32
    assert "--" not in name
