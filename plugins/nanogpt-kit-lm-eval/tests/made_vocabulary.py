"""A small BPE with the pattern of GPT-2, for tiktoken and for transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from nanogpt_kit.testing.training import TEXT

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
END, END_ID = "<|endoftext|>", 50_256
MERGES = 120


@functools.cache
def merges() -> tuple[tuple[str, str], ...]:
    """Pairs of tokens, in the order in which they are merged, in the printable characters that stand for bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tuple((one, other) for one, other in json.loads(tokenizer.to_str())["model"]["merges"])


def tokens() -> Iterator[str]:
    yield from byte_characters().values()
    yield from (one + other for one, other in merges())


@functools.cache
def byte_characters() -> dict[int, str]:
    """GPT-2's: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def small_gpt2_encoding() -> Any:
    import tiktoken

    from_character = {character: byte for byte, character in byte_characters().items()}
    ranks = {bytes(from_character[c] for c in token): rank for rank, token in enumerate(tokens())}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: END_ID})


def install_vocabulary(set_item: Callable[[Any, str, Any], None]) -> None:
    """Makes it that of `gpt2`, as if tiktoken had downloaded it."""
    import tiktoken.registry

    for name in ("gpt2", "r50k_base"):
        set_item(tiktoken.registry.ENCODINGS, name, small_gpt2_encoding())


def small_gpt2_tokenizer() -> Any:
    """The same for transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: rank for rank, token in enumerate(tokens())} | {END: END_ID}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges())))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
