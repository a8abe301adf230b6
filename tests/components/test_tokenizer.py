"""Tokenizers: what goes in comes out, and ids stay in the vocabulary."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.api import Encoder, KitError, TextContext
from nanogpt_kit.components.tokenizer.byte import Byte
from nanogpt_kit.components.tokenizer.char import Char
from nanogpt_kit.components.tokenizer.gpt2 import GPT2

unicode_text = st.text(st.characters(codec="utf-8"))  # all but halves of surrogate pairs

STRANGE = "nul \0, mark \ufeff, lines \r\n\r\n, \u2603 \U0001f600, joined \U0001f469\u200d\U0001f680, last \U0010ffff"


def learnt(kind: Byte | Char, *texts: str) -> Encoder:
    """An encoder from half of the texts in each split."""

    def documents(split: str) -> Iterator[str]:
        yield from texts[split == "val" :: 2]

    return kind.build(TextContext(splits=("train", "val"), documents=documents))


def check_round_trip(encoder: Encoder, texts: list[str]) -> None:
    arrays = encoder.encode_batch(texts)
    assert len(arrays) == len(texts)
    for text, ids in zip(texts, arrays, strict=True):
        assert all(0 <= token < encoder.vocab_size for token in ids)
        assert encoder.eot_id not in ids.tolist()
        assert encoder.decode(ids) == text
        assert encoder.decode_bytes(ids.tolist()) == text.encode("utf-8")


@given(st.lists(unicode_text))
def test_byte_gives_back_any_text(texts: list[str]) -> None:
    check_round_trip(learnt(Byte()), texts)


@given(st.lists(unicode_text, min_size=1))
def test_char_gives_back_any_text_over_its_alphabet(texts: list[str]) -> None:
    encoder = learnt(Char(), *texts)
    assert encoder.vocab_size == len(set("".join(texts)))
    check_round_trip(encoder, texts)


@pytest.mark.parametrize("kind", [Byte(), Char()])
def test_strange_text_survives(kind: Byte | Char) -> None:
    check_round_trip(learnt(kind, STRANGE), [STRANGE, "", STRANGE[::-1]])


def test_byte_tokens_are_the_bytes_and_its_end_is_none_of_them() -> None:
    encoder = learnt(Byte())
    every_character = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 257)]))
    (ids,) = encoder.encode_batch([every_character])
    assert bytes(ids.tolist()) == every_character.encode()
    assert (encoder.vocab_size, encoder.eot_id) == (257, 256)
    assert encoder.decode([104, 105, 256, 33]) == "hi!"


def test_broken_bytes_become_the_replacement_character() -> None:
    encoder = learnt(Byte())
    assert encoder.decode([0xE2, 0x98, 0x83, 0xE2, 0x98, 65]) == "\u2603\ufffdA"
    assert encoder.decode_bytes([0xE2, 0x98, 0xFF]) == b"\xe2\x98\xff"


def test_char_numbers_the_characters_of_all_splits_by_code_point() -> None:
    encoder = learnt(Char(), "banana", "\U0001f600 nab")
    assert encoder.eot_id is None
    (ids,) = encoder.encode_batch([" abn\U0001f600"])
    assert ids.tolist() == [0, 1, 2, 3, 4]
    assert np.concatenate(encoder.encode_batch(["ab", "ba"])).tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("text", "named"),
    [("abz", "'z'"), ("a\0b", r"'\x00'"), ("\U0001f600", "'\U0001f600'"), ("zyxwvut", "'t', 'u', 'v', 'w', 'x'")],
)
def test_char_names_the_characters_it_does_not_know(text: str, named: str) -> None:
    with pytest.raises(KitError) as caught:
        learnt(Char(), "abcd").encode_batch(["ab", text])
    assert str(caught.value) == f"not in the vocabulary of 4 characters: {named}"


@pytest.mark.parametrize("kind", [Byte(), Char()])
def test_a_tokenizer_is_restored_from_its_state_as_json(kind: Byte | Char) -> None:
    encoder = learnt(kind, STRANGE)
    restored = kind.restore(json.loads(json.dumps(encoder.state())))
    assert (restored.vocab_size, restored.eot_id) == (encoder.vocab_size, encoder.eot_id)
    assert restored.state() == encoder.state()
    np.testing.assert_array_equal(restored.encode_batch([STRANGE])[0], encoder.encode_batch([STRANGE])[0])
    check_round_trip(restored, [STRANGE])


def test_byte_has_nothing_to_remember() -> None:
    assert learnt(Byte(), STRANGE).state() == {}


@pytest.fixture
def gpt2(shakespeare: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shakespeare.parent / "tiktoken"))
    return learnt(GPT2())


def test_gpt2_makes_the_published_number_of_tokens_of_tiny_shakespeare(gpt2: Encoder, shakespeare: Path) -> None:
    text = shakespeare.read_text(encoding="utf-8")
    (ids,) = gpt2.encode_batch([text])
    assert (len(ids), gpt2.vocab_size, gpt2.eot_id) == (338_025, 50_257, 50_256)  # nanoGPT's data/shakespeare
    assert gpt2.decode(ids) == text


def test_gpt2_takes_what_looks_like_a_special_token_for_text(gpt2: Encoder) -> None:
    check_round_trip(gpt2, ["<|endoftext|>", STRANGE, ""])
    assert gpt2.decode_bytes([31373, 50256]) == b"hello"


def test_a_restored_gpt2_needs_no_vocabulary_from_elsewhere(gpt2: Encoder) -> None:
    restored = GPT2().restore(json.loads(json.dumps(gpt2.state())))
    for text in (STRANGE, "To be, or not to be", "naïve 猫 \U0001f600"):
        assert restored.encode_batch([text])[0].tolist() == gpt2.encode_batch([text])[0].tolist()
    assert (restored.vocab_size, restored.eot_id) == (gpt2.vocab_size, gpt2.eot_id)


def test_without_its_vocabulary_gpt2_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import tiktoken.load\n"
        "def offline(*a, **k): raise OSError('no network')\n"
        "tiktoken.load.read_file = offline\n"
        "from nanogpt_kit.components.tokenizer.gpt2 import GPT2\n"
        "from nanogpt_kit.api import KitError\n"
        "try: GPT2().build(None)\n"
        "except KitError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"TIKTOKEN_CACHE_DIR": str(tmp_path)}
    )
    assert "gpt2 cannot be downloaded: no network; with TIKTOKEN_CACHE_DIR set" in answer.stdout, answer.stderr
