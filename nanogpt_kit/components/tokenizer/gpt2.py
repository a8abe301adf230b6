"""GPT-2's byte-level BPE: 50,257 tokens, through tiktoken.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; Sennrich et al. 2015,
arXiv:1508.07909.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tiktoken

from nanogpt_kit.api import Encoder, KitError, TextContext, Tokenizer


class GPT2(Tokenizer):
    def build(self, ctx: TextContext) -> Encoder:
        try:
            return BPEEncoder(tiktoken.get_encoding("gpt2"))
        except (OSError, ValueError) as error:  # no network, or not the file that was expected
            cause = str(error).partition(" (Caused by")[0]
            raise KitError(
                f"the vocabulary of gpt2 cannot be downloaded: {cause}; with TIKTOKEN_CACHE_DIR set to a folder that "
                'tiktoken has filled elsewhere it needs no network, and tokenizer.use = "byte" needs no vocabulary'
            ) from None

    def known_vocab_size(self) -> int:
        return 50_257  # 256 bytes, 50,000 merges, <|endoftext|>

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        ranks = {base64.b64decode(token): rank for rank, token in enumerate(state["tokens"].split())}
        return BPEEncoder(
            tiktoken.Encoding("gpt2", pat_str=state["pattern"], mergeable_ranks=ranks, special_tokens=state["special"])
        )


class BPEEncoder(Encoder):
    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.vocab_size = encoding.n_vocab
        self.eot_id = encoding.eot_token

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Text that looks like a special token is text."""
        return [np.array(ids, dtype=np.int64) for ids in self.encoding.encode_ordinary_batch(list(texts))]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.encoding.decode_bytes([token for token in ids if token != self.eot_id])

    def state(self) -> dict[str, Any]:
        """The whole vocabulary, so that a checkpoint needs nothing else."""
        tokens = [self.encoding.decode_single_token_bytes(rank) for rank in range(self.vocab_size - 1)]
        return {
            "pattern": self.encoding._pat_str,
            "special": {"<|endoftext|>": self.eot_id},
            "tokens": " ".join(base64.b64encode(token).decode() for token in tokens),
        }
