"""Conversations of a .jsonl file, of which the answers count: supervised fine-tuning.

Each line has `messages`, a list of objects with `role` and `content`. The text of a message is "role: content" and a
line end, so the prompt for an answer ends with "assistant:". The line end counts with the answer: it ends the turn.

Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5; that only answers count: Touvron et al. 2023,
arXiv:2307.09288, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.api import Field, HashSplitDataset, KitError, MarkedText, PathStr, TextFile, content_hash


class Conversations(HashSplitDataset):
    source: PathStr = Field(min_length=1, description="path of the .jsonl file, a conversation on each line")
    answers: str = Field("assistant", min_length=1, description="role whose messages count")

    def all_documents(self) -> Iterator[MarkedText]:
        for line, _, record in TextFile(Path(self.source), "messages").records():
            try:
                turns = [(message["role"] + ":", " " + message["content"] + "\n") for message in record["messages"]]
            except (KeyError, TypeError):
                what = '{"messages": [{"role": "user", "content": "..."}, ...]}'
                raise KitError(f"{self.source}:{line}: a conversation should be {what}") from None
            parts = [((role, False), (content, role == f"{self.answers}:")) for role, content in turns]
            yield MarkedText.of_parts(part for turn in parts for part in turn)

    def fingerprint(self) -> str:
        return f"{content_hash(self.source)} {self.answers} {self.val_fraction} {self.test_fraction}"
