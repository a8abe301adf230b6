"""OpenAI's published encodings by name, from GPT-2's 50,257 tokens to the 200,019 of GPT-4o, through tiktoken.

Source: tiktoken's openai_public; Radford et al. 2019, section 2.2, for byte-level BPE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nanogpt_kit.api import BPEEncoder, Encoder, Field, PathStr, TextContext, Tokenizer

VOCAB_SIZES = {  # highest id + 1; some ids below have no token
    "gpt2": 50_257,
    "r50k_base": 50_257,
    "p50k_base": 50_281,
    "cl100k_base": 100_277,
    "o200k_base": 200_019,
}


class Tiktoken(Tokenizer):
    encoding: Literal["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base"] = Field(
        "cl100k_base", description="name of the encoding; gpt2 and r50k_base are the same"
    )
    location_options: ClassVar[frozenset[str]] = Tokenizer.location_options | {"file"}
    file: PathStr | None = Field(
        None, min_length=1, description="local copy of <encoding>.tiktoken; omitted: tiktoken's cache or its download"
    )

    def build(self, ctx: TextContext) -> Encoder:
        return BPEEncoder.published(self.encoding, self.file)

    def known_vocab_size(self) -> int:
        return VOCAB_SIZES[self.encoding]

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return BPEEncoder(state)
