"""What runs a guest, and why: KVM if a trial boot works, else User Mode Linux, else emulation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ztlab.errors import HostUnfit
from ztlab.vm import kernels, qemu
from ztlab.vm.kernels import Kernel

Engine = Literal["kvm", "uml", "tcg"]
Wish = Literal["auto", "kvm", "uml", "tcg"]
Trial = Callable[[Kernel], str]
"""Boots a kernel by KVM: "" if that works, else why not."""

BOOT_S: dict[Engine, float] = {"kvm": 60.0, "uml": 60.0, "tcg": 240.0}
TRIAL_BOOT_S = 20.0
# How much longer than on the host things take that programs wait for, at the most.
TIME_SCALE: dict[Engine, float] = {"kvm": 1.0, "uml": 1.5, "tcg": 5.0}

_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An engine, the kernel it boots, and the reason: one clause for people."""

    engine: Engine
    kernel: Kernel
    reason: str


def choose(name: str | None, engine: Wish, trial: Trial) -> Choice:
    """What runs the kernel NAME (None: the best there is). HostUnfit if nothing can; NotFound."""
    if name is not None:
        kernels.check_name(name)
    if engine == "auto":
        return _automatic(name, trial)
    reasons: list[str] = []
    kernel = _uml(name, reasons) if engine == "uml" else _stock(name, reasons)
    if kernel is None:
        raise HostUnfit(f"no guest by {engine}: {'; '.join(reasons)}", hint=_hint(engine, name))
    return Choice(engine=engine, kernel=kernel, reason="as asked")


def _automatic(name: str | None, trial: Trial) -> Choice:
    reasons: list[str] = []
    stock = _stock(name, reasons)
    refusal = (reasons[-1] if stock is None else "") or _why_no_kvm(stock, trial)
    if stock is not None and not refusal:
        return Choice(engine="kvm", kernel=stock, reason="a trial boot by KVM worked")
    no_kvm = f"no KVM ({refusal})"
    if uml := _uml(name, reasons):
        return Choice(engine="uml", kernel=uml, reason=no_kvm)
    if stock is not None:
        return Choice(engine="tcg", kernel=stock, reason=f"{no_kvm}; {reasons[-1]}")
    wanted = f" {name}" if name else ""
    ways = [_hint("uml", name) + "; or "] if name in (None, kernels.UML_LINE) else []
    raise HostUnfit(
        f"no way to boot a kernel{wanted} here: {'; '.join(reasons)}",
        hint="".join((*ways, _hint("tcg", name))),
    )


def _stock(name: str | None, reasons: list[str]) -> Kernel | None:
    """The stock kernel to boot in QEMU; what is missing goes to REASONS."""
    kernel = kernels.choose(kernels.stock(), name)
    if lacking := qemu.why_not():
        reasons.append(lacking)
    elif kernel is None:
        reasons.append(f"no stock kernel {name or ''} is installed".replace("  ", " "))
    else:
        return kernel
    return None


def _uml(name: str | None, reasons: list[str]) -> Kernel | None:
    """The User Mode Linux to run; what is missing goes to REASONS."""
    there = kernels.uml()
    kernel = kernels.choose(there, name)
    if kernel is None and there:
        reasons.append(f"the User Mode Linux here is {there[-1].release}")
    elif kernel is None:
        reasons.append("no User Mode Linux is built")
    return kernel


def _why_no_kvm(kernel: Kernel | None, trial: Trial) -> str:
    """Why KVM does not run KERNEL here; "" if it does. A trial is made once after each boot."""
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM} is not there, or not ours to open"
    assert kernel is not None
    path = kernels.cache_folder() / "kvm-trial.json"
    this = {"boot": _BOOT_ID.read_text().strip(), "kernel": kernel.release}
    try:
        known = json.loads(path.read_text())
        if {key: known[key] for key in this} == this:
            return str(known["refusal"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    refusal = trial(kernel)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**this, "refusal": refusal}))
    except OSError:
        pass  # then the next run tries again
    return refusal


def _hint(engine: Engine, name: str | None) -> str:
    if engine == "uml" and name in (None, kernels.UML_LINE):
        return "ztlab vm build-uml"
    if engine == "uml":
        return f"it is built of {kernels.UML_LINE} alone; --engine auto finds what boots {name}"
    package = kernels.STOCK.get(name or "6.12", f"linux-image-{name}")
    return f"apt-get install {qemu.PACKAGES} {package}"
