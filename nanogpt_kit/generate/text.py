"""Turns tokens into text while they are generated: whole characters, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.core.kinds import Encoder


class StreamedText:
    """The text of the tokens after a prompt. It ends before the first of `stops`, and is `stopped` then."""

    def __init__(self, encoder: Encoder, stops: Sequence[str], prompt: Sequence[int] = ()) -> None:
        self.stops = stops
        self.stream = encoder.stream(prompt)
        self.held_back = ""  # possibly the beginning of a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """The characters that can be shown once the text has this token."""
        return self._add_text(self.stream.add(token), is_last=False)

    def rest(self) -> str:
        """The characters that were held back, once the text has ended."""
        return "" if self.stopped else self._add_text(self.stream.rest(), is_last=True)

    def _add_text(self, text: str, is_last: bool) -> str:
        self.held_back += text
        positions = [self.held_back.find(stop) for stop in self.stops]
        ends = [position for position in positions if position >= 0]
        self.stopped = bool(ends)
        if ends:
            return self._release(min(ends))
        return self._release(len(self.held_back) - (0 if is_last else self._undecided()))

    def _release(self, count: int) -> str:
        shown, self.held_back = self.held_back[:count], self.held_back[count:]
        return shown

    def _undecided(self) -> int:
        """The number of characters at the end that are the beginning of a stop string."""
        longest = min(len(self.held_back), max(map(len, self.stops), default=1) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(stop.startswith(self.held_back[-size:]) for stop in self.stops)), 0)
