"""From tokens to text as they come: characters that are whole, up to where a text is told to stop."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from nanogpt_kit.core.kinds import Encoder


class Text:
    """What the tokens so far say. `stopped` once one of the `stops` has been written; it is not part of the text."""

    def __init__(self, encoder: Encoder, stops: Sequence[str]) -> None:
        self.encoder = encoder
        self.stops = stops
        self.characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.waiting = ""  # what may be the beginning of a stop
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be shown of it, together with what waited before."""
        self.waiting += self.characters.decode(self.encoder.decode_bytes([token]))
        found = [self.waiting.find(stop) for stop in self.stops]
        ends = [at for at in found if at >= 0]
        self.stopped = bool(ends)
        return self._show(min(ends) if ends else len(self.waiting) - self._undecided())

    def rest(self) -> str:
        """What waited, where no more comes. The bytes of half a character are none."""
        return "" if self.stopped else self._show(len(self.waiting))

    def _show(self, count: int) -> str:
        shown, self.waiting = self.waiting[:count], self.waiting[count:]
        return shown

    def _undecided(self) -> int:
        """How many characters at the end are the beginning of a stop."""
        longest = min(len(self.waiting), max(map(len, self.stops), default=1) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(stop.startswith(self.waiting[-size:]) for stop in self.stops)), 0)
