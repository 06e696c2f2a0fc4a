"""bpf/zt_abi.h and Python agree, as the C compiler sees it. No root needed."""

from __future__ import annotations

import ctypes
import re
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from agent import abi
from tests.contract.tree import ROOT
from ztlab.model.identity import TAG_UNKNOWN, TAG_WORLD
from ztlab.model.verdict import DROP_REASONS, AuthzMode, Hook, Verdict

HEADER = ROOT / "bpf" / "zt_abi.h"
ENUMS: dict[str, tuple[str, type[IntEnum]]] = {
    "zt_verdict": ("ZT_", Verdict),
    "zt_hook": ("ZT_", Hook),
    "zt_mode": ("ZT_", AuthzMode),
    "zt_logging": ("ZT_LOG_", abi.Logging),
    "zt_config_word": ("ZT_CONFIG_", abi.ConfigWord),
    "zt_kind": ("ZT_KIND_", abi.Kind),
    "zt_action": ("ZT_ACTION_", abi.Action),
    "zt_origin": ("ZT_ORIGIN_", abi.Origin),
    "zt_flow_flag": ("ZT_FLOW_", abi.FlowFlag),  # type: ignore[dict-item]
    "zt_frag_flag": ("ZT_FRAG_", abi.FragFlag),  # type: ignore[dict-item]
    "zt_event_flag": ("ZT_EVENT_", abi.EventFlag),  # type: ignore[dict-item]
    "zt_log_counter": ("ZT_", abi.LogCounter),
}
CONSTANTS = {
    "ZT_SCHEMA": abi.SCHEMA,
    "ZT_POLICY_QUOTAS": int(abi.PolicyFlag.QUOTAS),
    "ZT_VOUCHED_TAG_SHIFT": abi.VOUCHED_TAG_SHIFT,
    "ZT_FRAG_PIECES": abi.FRAG_PIECES,
    "ZT_QUOTA_FRACTION": abi.QUOTA_FRACTION,
    "ZT_FIRST_DROP": int(DROP_REASONS[0]),
    "ZT_TAG_UNKNOWN": TAG_UNKNOWN,
    "ZT_TAG_WORLD": TAG_WORLD,
    "ZT_TAG_ANY": abi.TAG_ANY,
    "ZT_POLICY_FROM_ANY": int(abi.PolicyFlag.FROM_ANY),
    "ZT_POLICY_TO_ANY": int(abi.PolicyFlag.TO_ANY),
    "ZT_POLICY_ANY_TO_ANY": int(abi.PolicyFlag.ANY_TO_ANY),
    "ZT_POLICY_SLOT": int(abi.PolicyFlag.SLOT),
    "ZT_POLICY_DEFAULT_ALLOW": int(abi.PolicyFlag.DEFAULT_ALLOW),
    "ZT_POLICY_CLIENT": int(abi.PolicyFlag.CLIENT),
    "ZT_EPOCH_SHIFT": abi.EPOCH_SHIFT,
    "ZT_SHAPE_ANY_PROTOCOL": abi.SHAPE_ANY_PROTOCOL,
    "ZT_ANY_PROTOCOL": abi.ANY_PROTOCOL,
    "ZT_ECHO_PORT": abi.ECHO_PORT,
    "ZT_DENIALS_SHIFT": abi.DENIALS_SHIFT,
    "ZT_JUDGED_RULE_SHIFT": abi.JUDGED_RULE_SHIFT,
    "ZT_JUDGED_EPOCH_SHIFT": abi.JUDGED_EPOCH_SHIFT,
}
# Ends of enumerations: counts, not members.
NOT_MEMBERS = {"ZT_CONFIG_WORDS", "ZT_LOG_COUNTERS"}


def compiled(tmp_path: Path, expressions: dict[str, str]) -> dict[str, int]:
    """The values of C EXPRESSIONS, as the compiler computes them."""
    lines = "".join(
        f'printf("{key} %lld\\n", (long long)({c}));\n' for key, c in expressions.items()
    )
    source = tmp_path / "abi.c"
    source.write_text(
        "#include <stdio.h>\n#include <stddef.h>\n"
        f'#include "{HEADER.name}"\nint main(void) {{\n{lines}return 0;\n}}\n'
    )
    program = tmp_path / "abi"
    command = ["clang", "-Wall", "-Werror", f"-I{HEADER.parent}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split() for line in output.splitlines())}


def members(enum: str) -> list[str]:
    """The names in the C enumeration ENUM."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    body = re.search(rf"enum {enum}\s*{{(.*?)}}", text, flags=re.DOTALL)
    assert body, f"zt_abi.h has no enum {enum}"
    return [n for n in re.findall(r"\bZT_\w+", body[1]) if n not in NOT_MEMBERS]


def test_every_structure_has_the_same_fields_at_the_same_offsets(tmp_path: Path) -> None:
    wanted: dict[str, int] = {}
    expressions: dict[str, str] = {}
    for name, record in abi.STRUCTURES.items():
        expressions[name] = f"sizeof(struct {name})"
        wanted[name] = ctypes.sizeof(record)
        for field in record._fields_:
            descriptor = getattr(record, field[0])
            expressions[f"{name}.{field[0]}"] = f"offsetof(struct {name}, {field[0]})"
            wanted[f"{name}.{field[0]}"] = descriptor.offset
            expressions[f"{name}.{field[0]}:size"] = f"sizeof(((struct {name} *)0)->{field[0]})"
            wanted[f"{name}.{field[0]}:size"] = descriptor.size
    assert compiled(tmp_path, expressions) == wanted


def test_every_structure_of_the_header_is_known_to_python() -> None:
    assert set(re.findall(r"^struct (\w+) {", HEADER.read_text(), re.M)) == set(abi.STRUCTURES)


def test_no_structure_has_padding_without_a_name() -> None:
    for record in abi.STRUCTURES.values():
        sizes = [getattr(record, field[0]).size for field in record._fields_]
        assert sum(sizes) == ctypes.sizeof(record), record.__name__


def test_an_event_is_a_whole_number_of_eight_bytes() -> None:
    assert ctypes.sizeof(abi.Event) % 8 == 0


@pytest.mark.parametrize("enum", ENUMS)
def test_every_enumeration_has_the_same_names_and_numbers(enum: str, tmp_path: Path) -> None:
    prefix, python = ENUMS[enum]
    names = members(enum)
    values = compiled(tmp_path, {name: name for name in names})
    shortened = {
        name.removeprefix("ZT_" if enum == "zt_log_counter" else prefix): value
        for name, value in values.items()
    }
    if enum == "zt_log_counter":
        shortened = {name.removeprefix("LOG_"): value for name, value in shortened.items()}
    assert shortened == {member.name: int(member) for member in python}


def test_every_enumeration_of_the_header_is_compared() -> None:
    assert set(re.findall(r"^enum (\w+) {", HEADER.read_text(), re.M)) == set(ENUMS)


def test_every_constant_is_the_same(tmp_path: Path) -> None:
    assert compiled(tmp_path, {name: name for name in CONSTANTS}) == CONSTANTS
