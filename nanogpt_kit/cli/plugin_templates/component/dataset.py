"""Arithmetic as text: every sum of two numbers below a bound.

Change `all_documents`, and let `fingerprint` be a hash of all that decides them. For a file or a folder of text the
built-in `text` suffices.
"""

from collections.abc import Iterator

from nanogpt_kit.api import Field, HashSplitDataset


class Sums(HashSplitDataset):
    bound: int = Field(100, ge=2, description="number that both summands are below")

    def all_documents(self) -> Iterator[str]:
        for a in range(self.bound):
            for b in range(self.bound):
                yield f"{a} + {b} = {a + b}\n"

    def fingerprint(self) -> str:
        return f"every sum below {self.bound}"
