"""Cuts a stream into groups that depend on their members' content alone.

Work is stored by the group: in a changed corpus the unchanged groups are found again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tasks.core.files import fingerprint

Member = TypeVar("Member")


def cut_groups(
    members: Iterable[Member],
    most: int,
    document: Callable[[Member], str],
    content: Callable[[Member], str],
) -> Iterator[tuple[str, list[Member]]]:
    """Yield (fingerprint of the contents, members) of groups of at most ``most`` members of one
    file, in order.

    A file is cut where a member's own hash says so. A change moves the cuts next to it; the
    groups after those stay the same. ``document`` names a member's document: a file, or a row
    (``#``) or member (``!``) of one.
    """
    least, often = max(1, most // 4), max(2, most // 2)
    group: list[Member] = []
    hashes: list[str] = []
    last = ""
    for member in members:
        own, file = fingerprint(content(member)), re.split("[#!]", document(member), maxsplit=1)[0]
        cuts = len(group) >= least and int(own[:8], 16) % often == 0
        if group and (cuts or file != last or len(group) == most):
            yield fingerprint(*hashes)[:32], group
            group, hashes = [], []
        group.append(member)
        hashes.append(own)
        last = file
    if group:
        yield fingerprint(*hashes)[:32], group


def pack(
    shards: Iterable[tuple[int, Sequence[Member]]], least: int
) -> Iterator[list[tuple[int, Sequence[Member]]]]:
    """Yield the numbered shards in order, as many together as have ``least`` members.

    A model that waits for every shard of a small file is idle most of the time.
    """
    together: list[tuple[int, Sequence[Member]]] = []
    for numbered in shards:
        together.append(numbered)
        if sum(len(shard) for _, shard in together) >= least:
            yield together
            together = []
    if together:
        yield together
