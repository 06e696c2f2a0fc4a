"""A running coordinator keeps as many revisions as its settings say."""

from __future__ import annotations

from contextlib import closing

from tests.control.process import running, start, wait_until_it_answers
from tests.control.served import until


def test_the_setting_reaches_the_service() -> None:
    with running(revisions_kept=2) as here:
        with closing(here.admin()) as admin:
            for name in ("a", "b", "c"):
                admin.create_identity(name)
            assert len(admin.revisions()) == 4  # control: more than are kept, until it looks again
        here.stop()
        here.process = start(here.directory)
        with closing(here.admin()) as admin:
            wait_until_it_answers(here)
            until(lambda: len(admin.revisions()) == 2, "old revisions forgotten")
            here.stop()
