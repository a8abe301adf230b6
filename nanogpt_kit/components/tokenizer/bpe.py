"""Byte-level BPE, trained on the train split with Hugging Face's tokenizers: 256 bytes, merges, <|endoftext|>.

Encoding uses tiktoken, which is faster and merges wherever the result is a token; the library merges only pairs that it
merged in training. They differ on rare text in which other parts also form a token.

Source: Sennrich et al. 2015, arXiv:1508.07909; Radford et al. 2019, section 2.2, for bytes and how text is split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nanogpt_kit.api import BPEEncoder, Encoder, Field, TextContext, Tokenizer


class BPE(Tokenizer):
    vocab_size: int = Field(
        4_096,
        ge=257,
        le=2**24,
        description="maximum number of tokens, with the 256 bytes and <|endoftext|>; little text gives fewer",
    )
    min_frequency: int = Field(2, ge=1, description="minimum number of occurrences of a pair to be merged")

    def build(self, ctx: TextContext) -> Encoder:
        import tokenizers as hf

        tokenizer = hf.Tokenizer(hf.models.BPE())
        tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
        trainer = hf.trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1,
            min_frequency=self.min_frequency,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(ctx.documents("train"), trainer)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns about later forks
        vocabulary = tokenizer.get_vocab()
        merges = sorted(vocabulary.keys() - set(alphabet), key=vocabulary.__getitem__)  # in the order of their merges
        tokens = [bytes([byte]) for byte in range(256)]
        return BPEEncoder.trained(tokens + [bytes(map(BPEEncoder.letters.__getitem__, token)) for token in merges])

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return BPEEncoder(state)
