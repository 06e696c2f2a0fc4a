from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from agent.datapath import bcc_loader
from agent.datapath.limits import Limits
from agent.datapath.loaded import Wanted
from agent.datapath.marks import MarkLayout
from agent.datapath.sources import SOURCES
from ztlab.errors import HostUnfit

WANTED = Wanted(marks=MarkLayout.from_mask(0xFF002000), limits=Limits())


def test_the_flattened_source_has_every_header_once_and_none_to_include() -> None:
    text = bcc_loader.flattened("zt_wg.c")
    assert not re.search(r'#include "', text)
    for header in SOURCES.glob("*.h"):
        assert text.count(f'#line 1 "{header.name}"') == 1, header.name


def test_line_numbers_in_messages_stay_those_of_the_files() -> None:
    original = (SOURCES / "zt_wg.c").read_text().splitlines()
    file, number, seen = "", 0, 0
    for line in bcc_loader.flattened("zt_wg.c").splitlines():
        if mark := re.fullmatch(r'#line (\d+) "(\S+)"', line):
            number, file = int(mark[1]), mark[2]
            continue
        if file == "zt_wg.c":
            assert original[number - 1] == line
            seen += 1
        number += 1
    assert seen == len(original) - 1  # all but the one include


def test_without_root_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostUnfit, match="root"):
        bcc_loader.load(WANTED)


def test_without_headers_it_says_where_they_should_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(bcc_loader, "HEADERS", tmp_path)
    with pytest.raises(HostUnfit, match=f"kernel headers in {tmp_path}"):
        bcc_loader.load(WANTED)


@pytest.mark.parametrize("wrong", [{"flows": 0}, {"ring_pages": 3}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Limits(**wrong)
