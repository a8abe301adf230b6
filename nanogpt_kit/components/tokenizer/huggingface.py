"""Any tokenizer.json of Hugging Face's tokenizers, run by that library, normalizer and pre-tokenizer included.

Text that looks like a special token is encoded as text. What a normalizer removes is lost.

Source: github.com/huggingface/tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nanogpt_kit.api import Encoder, Field, LibraryEncoder, PathStr, TextContext, Tokenizer, content_hash


class HuggingFace(Tokenizer):
    location_options: ClassVar[frozenset[str]] = Tokenizer.location_options | {"file"}
    file: PathStr = Field(min_length=1, description="path of a tokenizer.json")
    eot: str | None = Field(
        None,
        min_length=1,
        description=f"end-of-document token; omitted: one of {', '.join(LibraryEncoder.common_eot_tokens)}",
    )

    def build(self, ctx: TextContext) -> Encoder:
        return LibraryEncoder.read(self.file, self.eot)

    def fingerprint(self) -> str:
        return content_hash(self.file)

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return LibraryEncoder(state["json"], state["eot"], "the stored tokenizer.json")
