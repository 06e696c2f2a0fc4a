"""Nothing in the tree speaks of one person's machine or of one place's package servers."""

from __future__ import annotations

import re

from tests.contract.tree import files, shown

# Put together from parts, so that this file does not name them itself.
PRIVATE = {
    "a folder of one workplace": r"(?<![\w.*-])/" + r"(work|opt/(pypi|wheels)|home/\w+)/",
    "a package server": r"pypi\."
    + r"org|python"
    + r"hosted|registry\.npm"
    + r"js|deb\.deb"
    + "ian",
    "an option that names a package index": r"(--|PIP_)(extra[-_])?"
    + r"(index|find)[-_](url|links)",
    "a private key": "BEGIN [A-Z ]*" + "PRIVATE KEY-----\n[A-Za-z0-9+/]{20}",
}


def test_no_file_names_private_things() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # compiled or a picture
        for what, pattern in PRIVATE.items():
            for match in re.finditer(pattern, text, re.IGNORECASE):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{shown(path)}:{line}: {what}: {match[0]}")
    assert not found, "\n" + "\n".join(found)


def test_the_lock_file_names_versions_and_hashes_and_nothing_else() -> None:
    line = re.compile(
        r"[a-z0-9.-]+==[\w.+!]+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|\s*#.*"
    )
    lock = next(p for p in files(".lock") if p.name == "requirements.lock").read_text()
    odd = [text for text in lock.splitlines() if not line.fullmatch(text)]
    assert not odd
