"""The licences: Apache-2.0 for all, and for what runs in the kernel what its helpers ask for."""

from __future__ import annotations

import hashlib
import re

from tests.contract.tree import ROOT, files, shown

KERNEL = re.compile(r"SPDX-License-Identifier: \(?GPL-2\.0-only OR BSD-2-Clause\)?")


def test_every_file_that_runs_in_the_kernel_carries_its_licence_in_the_first_line() -> None:
    programs = list(files(".c", ".h", under="bpf"))
    assert programs, "there are no programs under bpf/"
    without = [shown(p) for p in programs if not KERNEL.search(p.read_text().split("\n", 1)[0])]
    assert not without


def test_the_licence_is_apaches_own_text() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "LICENSE").read_text()).strip()
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256_OF_APACHE_2_0


# Of https://www.apache.org/licenses/LICENSE-2.0.txt with every run of blanks as one space.
SHA256_OF_APACHE_2_0 = "0ffddef9e48f8a09aed5caf2d44f7ba1c1be2d9b8e0a6f693b1635b2d5566645"


def test_the_texts_that_the_kernel_programs_licence_names_are_here() -> None:
    for name in ("GPL-2.0-only", "BSD-2-Clause"):
        assert (ROOT / "LICENSES" / f"{name}.txt").is_file()
