"""How the ingress program's word on a packet is laid out in skb->mark."""

from __future__ import annotations

from dataclasses import dataclass

_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkLayout:
    """One judged bit, and above it a contiguous field for the tag. All other bits are left alone.

    mask       every bit that is ours
    judged     the judged bit, as a mask
    tag_shift  the lowest bit of the tag field, 0..31
    tag_bits   the field's width in bits, 1..24
    """

    mask: int
    judged: int
    tag_shift: int
    tag_bits: int

    @classmethod
    def from_mask(cls, mask: int) -> MarkLayout:
        """The layout of MASK: its lowest bit says judged, the rest is the tag field.

        ValueError where the rest is empty, wider than a tag, or not contiguous.
        """
        if not 0 < mask < 2**_BITS:
            raise ValueError(f"want a mark mask of 32 bits, got {mask:#x}")
        judged = mask & -mask
        field = mask ^ judged
        if not field:
            raise ValueError(f"mark mask {mask:#x} has a judged bit, but no room for a tag")
        shift = (field & -field).bit_length() - 1
        width = field.bit_count()
        if field >> shift != 2**width - 1:
            raise ValueError(
                f"want a mark mask of one judged bit and above it a contiguous tag field, "
                f"got {mask:#x}"
            )
        if width > 24:
            raise ValueError(f"the tag field of {mask:#x} has {width} bits, a tag only 24")
        return cls(mask=mask, judged=judged, tag_shift=shift, tag_bits=width)

    def fits(self, tag: int) -> bool:
        """Can TAG be written in the field?"""
        return 0 <= tag < 1 << self.tag_bits

    def mark(self, tag: int) -> int:
        """The bits of a judged packet whose source has TAG."""
        return self.judged | tag << self.tag_shift & self.mask
