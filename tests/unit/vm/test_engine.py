"""Which engine runs a guest, and the reason that is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ztlab.errors import HostUnfit
from ztlab.vm import engine, kernels, qemu
from ztlab.vm.kernels import Kernel

STOCK = Kernel(kind="stock", release="6.12.9-cloud-amd64", image=Path("/boot/vmlinuz"))
OLD = Kernel(kind="stock", release="6.1.0-9-cloud-amd64", image=Path("/boot/vmlinuz-old"))
UML = Kernel(kind="uml", release="6.12.9-ztlab", image=Path("/cache/linux"))


@dataclass
class Machine:
    """What is at hand; and how often a trial boot was made."""

    stock: tuple[Kernel, ...] = (OLD, STOCK)
    uml: tuple[Kernel, ...] = (UML,)
    lacks_qemu: str = ""
    refusal: str = ""
    trials: list[str] = field(default_factory=list)

    def trial(self, kernel: Kernel) -> str:
        self.trials.append(kernel.release)
        return self.refusal


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine with everything, and a /dev/kvm that can be opened."""
    machine = Machine()
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(kernels, "stock", lambda: machine.stock)
    monkeypatch.setattr(kernels, "uml", lambda: machine.uml)
    monkeypatch.setattr(qemu, "why_not", lambda: machine.lacks_qemu)
    monkeypatch.setattr(engine, "_KVM", device)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return machine


def test_kvm_is_taken_where_a_trial_boot_works(machine: Machine) -> None:
    choice = engine.choose(None, "auto", machine.trial)
    assert (choice.engine, choice.kernel) == ("kvm", STOCK)
    assert "trial boot" in choice.reason


def test_a_kvm_that_can_be_opened_and_cannot_boot_is_not_taken(machine: Machine) -> None:
    machine.refusal = "a trial boot failed"
    choice = engine.choose(None, "auto", machine.trial)
    assert (choice.engine, choice.kernel) == ("uml", UML)
    assert "a trial boot failed" in choice.reason


def test_the_trial_is_made_once_after_each_boot(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.refusal = "no"
    for _ in range(3):
        engine.choose(None, "auto", machine.trial)
    assert len(machine.trials) == 1
    another = tmp_path / "boot_id"
    another.write_text("another boot\n")
    monkeypatch.setattr(engine, "_BOOT_ID", another)
    engine.choose(None, "auto", machine.trial)
    assert len(machine.trials) == 2


def test_a_damaged_memory_of_the_trial_is_no_obstacle(machine: Machine) -> None:
    folder = kernels.cache_folder()
    folder.mkdir(parents=True)
    (folder / "kvm-trial.json").write_text("[")
    assert engine.choose(None, "auto", machine.trial).engine == "kvm"


def test_without_kvm_and_uml_the_kernel_is_emulated(machine: Machine) -> None:
    machine.refusal, machine.uml = "no", ()
    choice = engine.choose(None, "auto", machine.trial)
    assert (choice.engine, choice.kernel) == ("tcg", STOCK)
    assert "no User Mode Linux is built" in choice.reason


def test_a_kernel_that_uml_is_not_is_emulated(machine: Machine) -> None:
    machine.refusal = "no"
    choice = engine.choose("6.1", "auto", machine.trial)
    assert (choice.engine, choice.kernel) == ("tcg", OLD)
    assert "the User Mode Linux here is 6.12.9-ztlab" in choice.reason


def test_no_trial_is_made_without_qemu(machine: Machine) -> None:
    machine.lacks_qemu = "qemu-system-x86_64 is not installed"
    choice = engine.choose("6.12", "auto", machine.trial)
    assert choice.engine == "uml" and "not installed" in choice.reason
    assert machine.trials == []


def test_with_nothing_at_hand_it_says_what_is_missing_and_how_to_get_it(machine: Machine) -> None:
    machine.lacks_qemu, machine.uml = "qemu-system-x86_64 is not installed", ()
    with pytest.raises(HostUnfit, match="no User Mode Linux is built") as refused:
        engine.choose("6.12", "auto", machine.trial)
    assert "ztlab vm build-uml" in refused.value.hint and "apt-get" in refused.value.hint


@pytest.mark.parametrize("wish", ["auto", "uml"])
def test_nobody_is_sent_to_build_a_uml_of_a_kernel_that_it_would_not_be(
    machine: Machine, wish: engine.Wish
) -> None:
    machine.lacks_qemu = "qemu-system-x86_64 is not installed"
    with pytest.raises(HostUnfit) as refused:
        engine.choose("6.1", wish, machine.trial)
    assert refused.value.hint and "build-uml" not in refused.value.hint


@pytest.mark.parametrize("wish", ["uml", "tcg"])
def test_an_engine_that_was_asked_for_is_not_exchanged(machine: Machine, wish: engine.Wish) -> None:
    assert engine.choose("6.12", wish, machine.trial).engine == wish
    machine.uml, machine.lacks_qemu = (), "no qemu"
    with pytest.raises(HostUnfit, match=f"no guest by {wish}"):
        engine.choose("6.12", wish, machine.trial)
