"""Golden pairs: errors/NAME.yaml is broken, errors/NAME.txt is word for word what the user reads.

A new or changed message: look at the difference, then `python tests/unit/scenario/test_errors.py`
writes every .txt anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ztlab.errors import SchemaError
from ztlab.scenario.loading import load

HERE = Path(__file__).parent
BROKEN = sorted((HERE / "errors").glob("*.yaml"))


def message(path: Path) -> str:
    """What loading PATH says, with the path as the file's name only."""
    with pytest.raises(SchemaError) as caught:
        load(path)
    hint = f"\nhint: {caught.value.hint}" if caught.value.hint else ""
    return str(caught.value).replace(str(path), path.name) + hint + "\n"


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_file_is_refused_in_these_words(path: Path) -> None:
    assert message(path) == path.with_suffix(".txt").read_text(encoding="utf-8")


def test_every_text_belongs_to_a_broken_file() -> None:
    assert {p.stem for p in (HERE / "errors").glob("*.txt")} == {p.stem for p in BROKEN}


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_every_line_names_file_line_and_column(path: Path) -> None:
    lines = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.startswith("hint: "):
            name, number, column, _ = line.split(":", 3)
            assert name == path.name
            assert int(number) >= 1 and int(column) >= 1


if __name__ == "__main__":
    for broken in BROKEN:
        broken.with_suffix(".txt").write_text(message(broken), encoding="utf-8")
