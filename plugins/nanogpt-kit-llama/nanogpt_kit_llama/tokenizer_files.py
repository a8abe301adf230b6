"""The tokenizer of a model in transformers' files: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt_kit.api import BPEEncoder, Encoder, KitError, LibraryEncoder, read_json

logger = logging.getLogger(__name__)

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
END = "<|endoftext|>"
PROBE = "Don't  stop\n\n\tat 12345: naïve 東京 🎉, it's\r\n  done. "  # on which both tokenizers have to agree


def end_token(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The option `eot` of the tokenizer: the token whose id config.json gives as the end of a text; empty without."""
    ids = config.get("eos_token_id")
    wanted = ids[0] if isinstance(ids, list) and ids else ids
    try:
        tokens = read_json(folder / FILE)["added_tokens"]
        return next({"eot": str(one["content"])} for one in tokens if one["id"] == wanted)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return {}


def write_tokenizer(folder: Path, encoder: Encoder, context: int) -> None:
    """Writes the files where Hugging Face's library can encode as the encoder does; logs where it cannot."""
    content = encoder.json if isinstance(encoder, LibraryEncoder) else byte_level_json(encoder)
    end = encoder.eot if isinstance(encoder, LibraryEncoder) else END
    if content is None:
        logger.info("the tokenizer is not part of the export: transformers has none that encodes as it does")
        return
    (folder / FILE).write_text(content, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **({"bos_token": end, "eos_token": end} if end else {}),
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def byte_level_json(encoder: Encoder) -> str | None:
    """A tokenizer.json of tokens that are bytes, merged from others or not; None where it would encode otherwise."""
    tokens = [encoder.decode_bytes([index]) for index in range(encoder.vocab_size)]
    is_bytes = sorted(token for token in tokens if len(token) == 1) == [bytes([value]) for value in range(256)]
    splits_as_gpt2 = isinstance(encoder, BPEEncoder) and encoder.state()["pattern"] == gpt2_pattern()
    if not is_bytes or encoder.eot_id is None or not (splits_as_gpt2 or max(map(len, tokens)) == 1):
        return None
    content = library_json(tokens, encoder.eot_id)
    try:
        found = LibraryEncoder(content, END, FILE).encode_batch([PROBE])[0]
    except KitError:
        return None
    return content if found.tolist() == encoder.encode_batch([PROBE])[0].tolist() else None


def gpt2_pattern() -> str:
    return str(BPEEncoder.trained([bytes([value]) for value in range(256)]).state()["pattern"])


def library_json(tokens: list[bytes], end: int) -> str:
    """As tiktoken encodes: a piece that is a token is one; else pairs that are a token are merged, lowest id first."""
    import tokenizers as hf

    letters = {value: letter for letter, value in BPEEncoder.letters.items()}
    ranks = {token: rank for rank, token in enumerate(tokens) if token}
    pairs = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], (token[:cut], token[cut:]))
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]

    def spelled(token: bytes) -> str:
        return "".join(map(letters.__getitem__, token))

    merges = [(spelled(first), spelled(second)) for *_, (first, second) in sorted(pairs)]
    vocabulary = {spelled(token): rank for token, rank in ranks.items()} | {END: end}
    tokenizer = hf.Tokenizer(hf.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return str(tokenizer.to_str())
