"""Options and arguments that several commands share."""

from __future__ import annotations

import click

from ztlab.lab.lab import Lab
from ztlab.lab.names import parse_reference

lab_option = click.option("--lab", "lab_name", metavar="NAME", help="Which lab, if several stand.")
ENGINES = click.Choice(["auto", "kvm", "uml", "tcg"])
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def find(reference: str, lab_name: str | None) -> tuple[Lab, str]:
    """The lab and node that REFERENCE (with --lab) means; NotFound with what there is."""
    found = parse_reference(reference, lab=lab_name, labs=Lab.names())
    lab = Lab.open(found.lab)
    return lab, lab.node(found.node).name
