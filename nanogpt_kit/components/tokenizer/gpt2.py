"""GPT-2's byte-level BPE: 50,257 tokens, through tiktoken.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; Sennrich et al. 2015,
arXiv:1508.07909.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nanogpt_kit.api import BPEEncoder, Encoder, Field, PathStr, TextContext, Tokenizer


class GPT2(Tokenizer):
    location_options: ClassVar[frozenset[str]] = Tokenizer.location_options | {"file"}
    file: PathStr | None = Field(
        None, min_length=1, description="local copy of r50k_base.tiktoken; omitted: tiktoken's cache or its download"
    )

    def build(self, ctx: TextContext) -> Encoder:
        return BPEEncoder.published("gpt2", self.file)

    def known_vocab_size(self) -> int:
        return 50_257  # 256 bytes, 50,000 merges, <|endoftext|>

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return BPEEncoder(state)
