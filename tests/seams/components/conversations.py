"""Conversations of a .jsonl file, of which only the answers count: supervised fine-tuning.

Each line has `messages`, a list of objects with `role` and `content`; the model learns what the role "assistant" writes
and the end of it. Prompts for such a model end as the text before an answer: "user: Who is there?\\nassistant:".

Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5; Touvron et al. 2023, arXiv:2307.09288, section 3.1, for the
loss on answers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.api import Field, HashSplitDataset, MarkedText, PathStr, TextFile, content_hash


class Conversations(HashSplitDataset):
    source: PathStr = Field(min_length=1, description="path of a .jsonl file, a conversation on each line")
    answers: str = Field("assistant", min_length=1, description="role whose messages are learnt")

    def all_documents(self) -> Iterator[MarkedText]:
        for _, _, record in TextFile(Path(self.source), "messages").records():
            parts = []
            for message in record["messages"]:
                parts.append((f"{message['role']}:", False))
                parts.append((f" {message['content']}\n", message["role"] == self.answers))
            yield MarkedText.of_parts(parts)

    def fingerprint(self) -> str:
        return f"{content_hash(self.source)} {self.answers} {self.val_fraction} {self.test_fraction}"
