"""Best fit decreasing by the number of pieces of each length, so that equal windows are packed at once.

A piece goes, the longest first, to the fullest window that has room for it, else to a new one. Windows with the same
pieces are one `Pattern`: the patterns are at most a few for each length, whatever the size of the dataset.

Source: Johnson et al. 1974, "Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms"; for
documents, Ding et al. 2024, arXiv:2404.10830.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """Windows with pieces of the same lengths: `pieces` of one `length`, after those of the pattern `before`."""

    before: Pattern | None
    length: int
    pieces: int

    def lengths(self) -> list[int]:
        """The length of each piece, the shortest first."""
        lengths: list[int] = []
        pattern: Pattern | None = self
        while pattern is not None:
            lengths += [pattern.length] * pattern.pieces
            pattern = pattern.before
        return lengths


def best_fit_decreasing(counts: Sequence[int], capacity: int) -> list[tuple[Pattern, int]]:
    """Patterns, each with its number of windows, for counts[n] pieces of each length n from 1 to `capacity`."""
    windows: dict[int, list[tuple[Pattern, int]]] = defaultdict(list)  # by the room that is left
    rooms: list[int] = []  # those with windows, ascending

    def add(room: int, pattern: Pattern, n: int) -> None:
        if not windows[room]:
            insort(rooms, room)
        windows[room].append((pattern, n))

    for length in range(capacity, 0, -1):
        left = int(counts[length])
        while left:
            nearest = bisect_left(rooms, length)
            is_new = nearest == len(rooms)
            room = capacity if is_new else rooms[nearest]
            before, n = (None, left) if is_new else windows[room].pop()
            if not windows[room] and not is_new:
                del rooms[nearest]
            pieces = room // length  # one window takes them in turn: with each it is fuller, so fits better
            full = min(n, left // pieces)
            if full:
                add(room - pieces * length, Pattern(before, length, pieces), full)
            left -= full * pieces
            if left and full < n:
                add(room - left * length, Pattern(before, length, left), 1)
                left, full = 0, full + 1
            if before is not None and full < n:
                add(room, before, n - full)
    return [window for room in sorted(windows) for window in windows[room]]
