"""What is written down about a lab, and its lock."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.lab.plans import BEHIND_A_GATEWAY, MESH
from ztlab.errors import NotFound, SchemaError, ZtError
from ztlab.lab import processes, state, teardown
from ztlab.lab.draft import draft
from ztlab.lab.state import InitProcess, NamespaceFds


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "state"
    monkeypatch.setenv("ZTLAB_STATE_DIR", str(path))
    yield path


def made(name: str = "mesh") -> state.LabRecord:
    record = replace(draft(MESH, source="mesh.yaml"), name=name)
    state.make_root()
    state.lab_dir(name).mkdir()
    state.write(record)
    return record


def test_a_record_comes_back_as_it_was_written() -> None:
    record = made()
    held = tuple(
        replace(n, namespaces=NamespaceFds(net=4, mnt=5), tunnel=("10.77.0.2/32",))
        for n in record.nodes
    )
    process = InitProcess(pid=7, started_ticks=8, boot_id="b")
    record = replace(record, nodes=held, init=process, phases_s={"agents": 1.5}, state="up")
    state.write(record)
    assert state.read("mesh") == record


def test_a_draft_names_every_namespace_before_it_is_made() -> None:
    record = draft(BEHIND_A_GATEWAY, source=None)
    assert record.names == tuple(
        f"behind.{n}" for n in ("switch", "coordinator", "laptop", "gate", "printer", "files")
    )
    assert record.init is None
    assert record.state == "building"


def test_a_client_is_dialled_by_nobody_and_a_gateway_at_its_underlay_address() -> None:
    record = draft(BEHIND_A_GATEWAY, source=None)
    assert record.node("laptop").endpoint is None
    assert record.node("gate").endpoint == "198.18.0.3:51820"
    assert record.node("printer").endpoint is None


def test_a_lab_nobody_made_is_not_found_and_the_standing_ones_are_named() -> None:
    with pytest.raises(NotFound) as caught:
        state.read("mesh")
    assert "ztlab up" in caught.value.hint
    made("other")
    with pytest.raises(NotFound) as caught:
        state.read("mesh")
    assert "other" in caught.value.hint


def test_a_node_nobody_has_is_not_found_with_a_guess() -> None:
    with pytest.raises(NotFound, match='did you mean "alice"'):
        made().node("alcie")


def test_a_path_is_no_name_of_a_lab() -> None:
    with pytest.raises(SchemaError):
        state.read("../mesh")


def test_a_torn_record_is_an_error_that_says_how_to_go_on() -> None:
    made()
    (state.lab_dir("mesh") / "lab.json").write_text('{"version": 1')
    with pytest.raises(ZtError) as caught:
        state.read("mesh")
    assert "ztlab down mesh" in caught.value.hint


@pytest.mark.parametrize("content", [None, "", "{", '{"version": 1}'])
def test_a_lab_goes_down_whatever_is_left_of_its_record(root: Path, content: str | None) -> None:
    made()
    path = state.lab_dir("mesh") / "lab.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert state.names() == ("mesh",)
    teardown.down("mesh")
    assert not root.exists()


def test_a_record_of_another_version_is_enough_to_go_down_by() -> None:
    made()
    path = state.lab_dir("mesh") / "lab.json"
    data = json.loads(path.read_text()) | {"version": 99, "colour": "blue"}
    path.write_text(json.dumps(data))
    with pytest.raises(ZtError, match="colour"):
        state.read("mesh")
    assert state.remains("mesh")[1][0] == "mesh.switch"
    teardown.down("mesh")
    assert state.names() == ()


def test_a_record_names_nothing_outside_its_own_lab() -> None:
    made()
    path = state.lab_dir("mesh") / "lab.json"
    data = json.loads(path.read_text()) | {"names": ["mesh.a", "other.b", "../x"]}
    path.write_text(json.dumps(data))
    assert state.remains("mesh") == (None, ("mesh.a",))


def test_a_lab_of_an_earlier_boot_goes_down_and_nobodys_process_is_killed() -> None:
    record = made()
    # Our own pid, in another boot: to mistake it for the lab's would end this test run.
    here = processes.identify(os.getpid())
    assert here is not None
    state.write(replace(record, init=replace(here, boot_id="an earlier one")))
    teardown.down("mesh")
    assert state.names() == ()


def test_a_recycled_pid_is_not_taken_for_the_labs() -> None:
    here = processes.identify(os.getpid())
    assert here is not None
    assert processes.is_alive(here)
    recycled = replace(here, started_ticks=here.started_ticks - 1)
    assert not processes.is_alive(recycled)
    processes.kill(recycled)  # would end this test run


def test_two_cannot_hold_one_labs_lock() -> None:
    with (
        state.lock("mesh"),
        pytest.raises(ZtError, match=rf"right now \(pid {os.getpid()}\)"),
        state.lock("mesh"),
    ):
        pass


def test_labs_of_two_names_do_not_wait_for_each_other() -> None:
    with state.lock("mesh"), state.lock("other"):
        pass


def test_a_released_lock_leaves_no_file_and_no_directory(root: Path) -> None:
    with state.lock("mesh"):
        assert root.exists()
    assert not root.exists()


def test_a_state_directory_that_was_there_before_stays(root: Path) -> None:
    root.mkdir()
    (root / "mine").touch()
    with state.lock("mesh"):
        pass
    assert [p.name for p in root.iterdir()] == ["mine"]
