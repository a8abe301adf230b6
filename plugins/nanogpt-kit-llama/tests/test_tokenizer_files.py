"""What is written of a tokenizer encodes as it does, in Hugging Face's library."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
from nanogpt_kit_llama.tokenizer_files import end_token, write_tokenizer

from nanogpt_kit.api import BPEEncoder, Encoder, LibraryEncoder

WORDS = [
    "the",
    "cat",
    "cats",
    "catastrophe",
    "over",
    "e",
    "é",
    "naïve",
    "東京",
    "🎉",
    "don't",
    "12",
    "2024",
    "\n",
    "\t",
    "  ",
]


def trained() -> BPEEncoder:
    """A vocabulary in which several pairs make one token."""
    merged = [
        b"th",
        b"he",
        b"the",
        b" t",
        b" the",
        b"at",
        b"cat",
        b"ca",
        b"cats",
        b" c",
        b" cat",
        b"ast",
        b"ver",
        b"over",
    ]
    return BPEEncoder.trained([bytes([value]) for value in range(256)] + merged)


def test_random_texts_have_the_same_tokens(tmp_path: Path) -> None:
    encoder = trained()
    write_tokenizer(tmp_path, encoder, context=64)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    draw = random.Random(5)
    texts = ["".join(draw.choice([*WORDS, " "]) for _ in range(12)) for _ in range(300)]
    for text, ids in zip(texts, encoder.encode_batch(texts), strict=True):
        assert library.encode(text).ids == ids.tolist()
        assert library.decode(ids.tolist()) == text
    assert library.token_to_id("<|endoftext|>") == encoder.eot_id
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 64


def test_a_tokenizer_json_is_written_as_it_was_read(tmp_path: Path) -> None:
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
    write_tokenizer(tmp_path / "first", trained(), context=64)
    text = (tmp_path / "first" / "tokenizer.json").read_text()
    encoder = LibraryEncoder(text, "<|endoftext|>", "a test")
    write_tokenizer(tmp_path / "again", encoder, context=64)
    assert (tmp_path / "again" / "tokenizer.json").read_text() == text
    found = end_token(tmp_path / "first", {"eos_token_id": [encoder.eot_id]})
    assert found == {"eot": "<|endoftext|>"}
    assert end_token(tmp_path / "first", {"eos_token_id": 3}) == {}
    assert end_token(tmp_path, {"eos_token_id": 3}) == {}


class Upper(Encoder):
    """Letters, which are not the bytes of other text."""

    vocab_size, eot_id = 26, 0

    def encode_batch(self, texts):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def decode_bytes(self, ids):  # type: ignore[no-untyped-def]
        return bytes(65 + index for index in ids)

    def last_safe_cut(self, text: str) -> int:
        return 0


def test_one_that_the_library_does_not_have_is_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        write_tokenizer(tmp_path, Upper(), context=64)
    assert not list(tmp_path.iterdir())
    assert "the tokenizer is not part of the export" in caplog.text
