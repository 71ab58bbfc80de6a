"""Groups that depend on their members' content alone, and shards that are done together."""

from __future__ import annotations

from tasks.core.groups import cut_groups, pack


def _groups(texts: list[str]) -> list[tuple[str, list[str]]]:
    return list(cut_groups(texts, 8, document=lambda text: text.split()[0], content=str))


def test_a_change_moves_only_the_groups_next_to_it() -> None:
    texts = [f"file-{number // 40} passage {number}" for number in range(200)]
    before = _groups(texts)
    assert [text for _, group in before for text in group] == texts
    assert all(len(group) <= 8 for _, group in before)
    changed = [*texts[:99], "file-2 another passage", *texts[100:]]
    new = {name for name, _ in _groups(changed)} - {name for name, _ in before}
    assert 1 <= len(new) <= 3
    assert {name for name, _ in _groups(texts[40:])} <= {name for name, _ in before}


def test_small_shards_are_packed_up_to_a_size() -> None:
    shards = [(0, "ab"), (1, "c"), (2, "defg"), (3, "h")]
    assert list(pack(shards, 3)) == [shards[:2], shards[2:3], shards[3:]]
    assert list(pack(shards, 1)) == [[shard] for shard in shards]


def test_a_groups_name_holds_every_member() -> None:
    """Of one that another file ends, and of the last one."""
    first, last = _groups(["a first", "a second", "b first", "b second"])
    assert first[1] == ["a first", "a second"] and last[1] == ["b first", "b second"]
    other_first, other_last = _groups(["a first", "a other", "b first", "b other"])
    assert first[0] != other_first[0] and last[0] != other_last[0]


def test_a_passage_more_moves_only_the_groups_next_to_it() -> None:
    texts = [f"file passage {number}" for number in range(200)]
    more = [*texts[:50], "file another passage", *texts[50:]]
    new = {name for name, _ in _groups(more)} - {name for name, _ in _groups(texts)}
    assert 1 <= len(new) <= 4
