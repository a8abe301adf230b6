"""From tokens to text as they come: characters that are whole, up to where a text is told to stop."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.core.kinds import Encoder


class StreamedText:
    """What the tokens after a prompt say. `stopped` once one of the `stops` was written; the text ends before it."""

    def __init__(self, encoder: Encoder, stops: Sequence[str], prompt: Sequence[int] = ()) -> None:
        self.stops = stops
        self.stream = encoder.stream(prompt)
        self.waiting = ""  # what may be the beginning of a stop
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be shown of it, together with what waited before."""
        return self._more(self.stream.add(token), ends=False)

    def rest(self) -> str:
        """What waited, where no more comes."""
        return "" if self.stopped else self._more(self.stream.rest(), ends=True)

    def _more(self, text: str, ends: bool) -> str:
        self.waiting += text
        found = [self.waiting.find(stop) for stop in self.stops]
        stops = [at for at in found if at >= 0]
        self.stopped = bool(stops)
        if stops:
            return self._show(min(stops))
        return self._show(len(self.waiting) - (0 if ends else self._undecided()))

    def _show(self, count: int) -> str:
        shown, self.waiting = self.waiting[:count], self.waiting[count:]
        return shown

    def _undecided(self) -> int:
        """How many characters at the end are the beginning of a stop."""
        longest = min(len(self.waiting), max(map(len, self.stops), default=1) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(stop.startswith(self.waiting[-size:]) for stop in self.stops)), 0)
