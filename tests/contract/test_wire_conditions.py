"""No update is lost: of several who read the same and write at once, one is heard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests.control.process import Coordinator
from ztlab.errors import Refused
from ztlab.model.management import Group


def test_of_eight_who_change_at_once_exactly_one_wins(coordinator: Coordinator) -> None:
    with closing(coordinator.admin()) as admin:
        writers = [f"w{i}" for i in range(8)]
        for name in writers:
            admin.create_identity(name)
        admin.put_group("all", [], etag=None)
        seen = admin.stored(Group, "/groups", "all")

        def add(name: str) -> bool:
            with closing(coordinator.admin()) as mine:
                try:
                    mine.put_group("all", [*seen.value.members, name], etag=seen.etag)
                except Refused as error:
                    assert error.status == 412
                    return False
                return True

        with ThreadPoolExecutor(len(writers)) as pool:
            won = [
                name
                for name, is_mine in zip(writers, pool.map(add, writers), strict=True)
                if is_mine
            ]
        assert len(won) == 1
        assert list(admin.stored(Group, "/groups", "all").value.members) == won
