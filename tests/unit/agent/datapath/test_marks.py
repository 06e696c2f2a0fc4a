from __future__ import annotations

import pytest

from agent.datapath.marks import MarkLayout


def test_the_default_mask_has_a_judged_bit_and_a_tag_field_of_eight_bits() -> None:
    layout = MarkLayout.from_mask(0xFF002000)
    assert layout == MarkLayout(mask=0xFF002000, judged=0x2000, tag_shift=24, tag_bits=8)
    assert layout.mark(3) == 0x03002000


def test_a_tag_fits_or_it_does_not() -> None:
    layout = MarkLayout.from_mask(0xFF002000)
    assert layout.fits(0) and layout.fits(255)
    assert not layout.fits(256)


def test_the_field_may_begin_right_above_the_judged_bit() -> None:
    assert MarkLayout.from_mask(0x1FF).tag_shift == 1


@pytest.mark.parametrize("mask", [0, -1, 1 << 32, 0x2000, 0x0F0F2000, 0xFFFFFFFF])
def test_a_mask_of_another_shape_is_refused(mask: int) -> None:
    with pytest.raises(ValueError):
        MarkLayout.from_mask(mask)
