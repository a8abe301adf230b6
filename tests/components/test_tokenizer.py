"""Tokenizers: what goes in comes out, and ids stay in the vocabulary."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.api import BPEEncoder, Encoder, KitError, TextContext, Tokenizer
from nanogpt_kit.components.tokenizer.bpe import BPE
from nanogpt_kit.components.tokenizer.byte import Byte
from nanogpt_kit.components.tokenizer.char import Char
from nanogpt_kit.components.tokenizer.gpt2 import GPT2
from nanogpt_kit.components.tokenizer.huggingface import HuggingFace
from nanogpt_kit.components.tokenizer.tiktoken import VOCAB_SIZES, Tiktoken
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.corpus import ascii_pieces, library_decoder, library_encoder
from nanogpt_kit.corpus import bpe as bpe_module
from nanogpt_kit.corpus.bpe import CL100K, EOT, O200K, PUBLISHED, R50K
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.testing.tokenizer import TokenizerConformance
from nanogpt_kit.testing.tokenizer_texts import SPECIAL, STRANGE

unicode_text = st.text(st.characters(codec="utf-8"))  # all but halves of surrogate pairs
adversarial = st.lists(st.one_of(st.sampled_from((*SPECIAL, *STRANGE)), unicode_text)).map("".join)

WEIRD = "nul \0, mark \ufeff, lines \r\n\r\n, \u2603 \U0001f600, joined \U0001f469\u200d\U0001f680, last \U0010ffff"
PROSE = "".join(
    f"{n} times {n + 7} is {n * (n + 7)}, as everybody knows; 'tis {word} said, we're told.\n"
    for n, word in enumerate(["often", "seldom", "never", "hardly", "always"] * 40)
)


def context(*texts: str) -> TextContext:
    """Half of the texts in each split."""

    def documents(split: str) -> Iterator[str]:
        yield from texts[split == "val" :: 2]

    return TextContext(splits=("train", "val"), documents=documents)


def learnt(kind: Tokenizer, *texts: str) -> Encoder:
    return kind.build(context(*texts))


def ids_of(encoder: Encoder, text: str) -> list[int]:
    (ids,) = encoder.encode_batch([text])
    return ids.tolist()


# --- every built-in passes the suite ----------------------------------------------------------------------------


class TestByte(TokenizerConformance):
    component = Byte()


class TestChar(TokenizerConformance):
    component = Char()
    any_text = False


class TestCharThatSkips(TokenizerConformance):
    component = Char(unknown="skip")
    lossless = False


class TestCharOfManyScripts(TokenizerConformance):
    component = Char()
    texts = (WEIRD, "".join(map(chr, range(0x4E00, 0x4F00))))
    any_text = False


class TestBPE(TokenizerConformance):
    component = BPE(vocab_size=400)
    texts = (PROSE, WEIRD)


class TestBPEOfBytesAlone(TokenizerConformance):
    component = BPE(vocab_size=257)


class TestBPEOfLittleText(TokenizerConformance):
    component = BPE(min_frequency=1)


@pytest.mark.usefixtures("gpt2_vocabulary")
class TestGPT2(TokenizerConformance):
    component = GPT2()


@pytest.mark.usefixtures("gpt2_vocabulary")
class TestTiktoken(TokenizerConformance):
    component = Tiktoken(encoding="gpt2")


@pytest.fixture
def r50k(gpt2_vocabulary: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GPT-2's vocabulary in tiktoken's format, or the one that stands for it."""
    path = tmp_path / "r50k_base.tiktoken"
    path.write_text(vocabulary_file(learnt(GPT2()).state()["tokens"].split(" ")), encoding="ascii")
    if not os.environ.get("NANOGPT_KIT_TEST_DATA"):
        published = replace(PUBLISHED["gpt2"], sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for name in ("gpt2", "r50k_base"):
            monkeypatch.setitem(PUBLISHED, name, published)
    return path


def vocabulary_file(tokens: list[str]) -> str:
    return "".join(f"{token} {rank}\n" for rank, token in enumerate(tokens) if token)


def trained(model: hf.models.Model, trainer: hf.trainers.Trainer, **parts: object) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([PROSE, *TokenizerConformance.texts], trainer)
    return tokenizer


def byte_level() -> hf.Tokenizer:
    tokenizer = trained(
        hf.models.BPE(),
        hf.trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|pad|>", "<|im_end|>"],
            show_progress=False,
        ),
        pre_tokenizer=hf.pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=hf.decoders.ByteLevel(),
    )
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=9, pad_token="<|pad|>")
    return tokenizer


def unigram(byte_fallback: bool = True) -> hf.Tokenizer:
    """As sentencepiece makes them, bytes for what it does not know; its vocabulary lists the special tokens, too."""
    tokenizer = trained(
        hf.models.Unigram(),
        hf.trainers.UnigramTrainer(
            vocab_size=400,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            unk_token="<unk>",
            show_progress=False,
        ),
        pre_tokenizer=hf.pre_tokenizers.Metaspace(),
        decoder=hf.decoders.Sequence([hf.decoders.ByteFallback(), hf.decoders.Metaspace()]),
    )
    parts = json.loads(tokenizer.to_str())
    parts["model"]["byte_fallback"] = byte_fallback
    parts["added_tokens"] = parts["added_tokens"][:3]  # bytes are no special tokens
    return hf.Tokenizer.from_str(json.dumps(parts))


def word_piece() -> hf.Tokenizer:
    return trained(
        hf.models.WordPiece(unk_token="[UNK]"),
        hf.trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]", "[SEP]"], show_progress=False),
        normalizer=hf.normalizers.Lowercase(),
        pre_tokenizer=hf.pre_tokenizers.BertPreTokenizer(),
        decoder=hf.decoders.WordPiece(),
    )


def words() -> hf.Tokenizer:
    return trained(
        hf.models.WordLevel(unk_token="[UNK]"),
        hf.trainers.WordLevelTrainer(vocab_size=50, special_tokens=["[UNK]", "<eos>"], show_progress=False),
        pre_tokenizer=hf.pre_tokenizers.WhitespaceSplit(),
    )


def llama3() -> hf.Tokenizer:
    split = hf.pre_tokenizers.Split(hf.Regex(sorted(library_encoder.CUTTABLE_PATTERNS, key=len)[-1]), "isolated")
    return trained(
        hf.models.BPE(),
        hf.trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|end_of_text|>"],
            show_progress=False,
        ),
        pre_tokenizer=hf.pre_tokenizers.Sequence([split, hf.pre_tokenizers.ByteLevel(False, use_regex=False)]),
        decoder=hf.decoders.ByteLevel(),
    )


def qwen2() -> hf.Tokenizer:
    tokenizer = llama3()
    tokenizer.normalizer = hf.normalizers.NFC()
    split = hf.pre_tokenizers.Split(hf.Regex(min(library_encoder.CUTTABLE_PATTERNS, key=len)), "isolated")
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([split, hf.pre_tokenizers.ByteLevel(False, use_regex=False)])
    return tokenizer


def sentences(decoder: hf.decoders.Decoder, *added: str, **parts: object) -> hf.Tokenizer:
    """Byte fallback and spaces as U+2581, as sentencepiece's BPE writes them."""
    tokenizer = trained(
        hf.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
        hf.trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        ),
        decoder=decoder,
        **parts,
    )
    changed = json.loads(tokenizer.to_str())
    changed["added_tokens"] = changed["added_tokens"][:3]  # bytes are no special tokens
    tokenizer = hf.Tokenizer.from_str(json.dumps(changed))
    tokenizer.add_tokens([hf.AddedToken(token, normalized=False) for token in added])
    return tokenizer


SPACES = "\u2581\u2581", "\u2581\u2581\u2581", "\u2581\u2581\u2581\u2581", "\n\n"


def gemma() -> hf.Tokenizer:
    """Tokens for runs of spaces are added to the vocabulary."""
    decoders = hf.decoders.Replace("\u2581", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()
    split = hf.pre_tokenizers.Split(" ", "merged_with_previous")
    normalizer = hf.normalizers.Replace(" ", "\u2581")
    return sentences(hf.decoders.Sequence([*decoders]), *SPACES, normalizer=normalizer, pre_tokenizer=split)


def llama2() -> hf.Tokenizer:
    """A space is put before each text, and taken from it when it is decoded."""
    decoders = hf.decoders.Replace("\u2581", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()
    normalizers = hf.normalizers.Prepend("\u2581"), hf.normalizers.Replace(" ", "\u2581")
    return sentences(
        hf.decoders.Sequence([*decoders, hf.decoders.Strip(" ", 1, 0)]),
        normalizer=hf.normalizers.Sequence([*normalizers]),
    )


def gpt1() -> hf.Tokenizer:
    """The end of a word is part of its last token."""
    return trained(
        hf.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        hf.trainers.BpeTrainer(
            vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
        ),
        normalizer=hf.normalizers.BertNormalizer(),
        pre_tokenizer=hf.pre_tokenizers.BertPreTokenizer(),
        decoder=hf.decoders.BPEDecoder("</w>"),
    )


def saved(tokenizer: hf.Tokenizer, folder: Path) -> str:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


@functools.cache
def made_once(make: Callable[[], hf.Tokenizer]) -> hf.Tokenizer:
    return make()


class TestHuggingFace(TokenizerConformance):
    """Of bytes."""

    make = staticmethod(byte_level)

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tokenizer = made_once(self.make)
        added = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values())
        monkeypatch.setattr(type(self), "component", HuggingFace(file=saved(tokenizer, tmp_path)), raising=False)
        monkeypatch.setattr(type(self), "added", added)
        monkeypatch.setattr(type(self), "library", staticmethod(tokenizer.decode))


class TestHuggingFaceUnigram(TestHuggingFace):
    make = staticmethod(unigram)
    lossless = False


class TestHuggingFaceWordPiece(TestHuggingFace):
    make = staticmethod(word_piece)
    lossless = False


class TestHuggingFaceWords(TestHuggingFace):
    make = staticmethod(words)
    lossless = False


class TestHuggingFaceLlama3(TestHuggingFace):
    make = staticmethod(llama3)


class TestHuggingFaceQwen2(TestHuggingFace):
    make = staticmethod(qwen2)
    lossless = False


class TestHuggingFaceGemma(TestHuggingFace):
    make = staticmethod(gemma)
    lossless = False


class TestHuggingFaceLlama2(TestHuggingFace):
    make = staticmethod(llama2)
    lossless = False


class TestHuggingFaceGPT1(TestHuggingFace):
    make = staticmethod(gpt1)
    lossless = False


def test_every_built_in_passes_the_suite() -> None:
    kinds = {type(getattr(case, "component", None)) for name, case in globals().items() if name.startswith("Test")}
    for entry in Registry.installed().of_kind("tokenizer"):
        if entry.distribution == KIT_DISTRIBUTION:
            assert load_entry(entry) in {*kinds, HuggingFace}, f"{entry.qualified} passes no suite"


# --- bytes and characters ---------------------------------------------------------------------------------------


def test_byte_tokens_are_the_bytes_and_its_end_is_none_of_them() -> None:
    encoder = learnt(Byte())
    every_character = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 257)]))
    assert bytes(ids_of(encoder, every_character)) == every_character.encode()
    assert (encoder.vocab_size, encoder.eot_id) == (257, 256)
    assert encoder.decode([104, 105, 256, 33]) == "hi!"


def test_broken_bytes_become_the_replacement_character() -> None:
    encoder = learnt(Byte())
    assert encoder.decode([0xE2, 0x98, 0x83, 0xE2, 0x98, 65]) == "\u2603\ufffdA"
    assert encoder.decode_bytes([0xE2, 0x98, 0xFF]) == b"\xe2\x98\xff"


def test_byte_has_nothing_to_remember() -> None:
    assert learnt(Byte(), WEIRD).state() == {}


def test_char_numbers_the_characters_of_all_splits_by_code_point() -> None:
    encoder = learnt(Char(), "banana", "\U0001f600 nab")
    assert encoder.eot_id is None
    assert ids_of(encoder, " abn\U0001f600") == [0, 1, 2, 3, 4]
    assert np.concatenate(encoder.encode_batch(["ab", "ba"])).tolist() == [1, 2, 2, 1]


@given(st.lists(unicode_text, min_size=1))
def test_char_learns_the_characters_that_occur(texts: list[str]) -> None:
    encoder = learnt(Char(), *texts)
    assert encoder.state() == {"characters": "".join(sorted(set("".join(texts))))}
    for text in texts:
        assert encoder.decode(ids_of(encoder, text)) == text


@pytest.mark.parametrize("size", [127, 128, 255, 256, 257, 65_535, 65_536, 65_537])
def test_char_counts_on_where_a_type_of_integers_ends(size: int) -> None:
    alphabet = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)][:size]))
    encoder = learnt(Char(unknown="skip"), alphabet)
    assert ids_of(encoder, alphabet + "\U0010ffff") == list(range(size))
    assert encoder.decode(range(size)) == alphabet
    assert ids_of(encoder, "0AZ\x7f") == [0x30, 0x41, 0x5A, 0x7F][: 4 if size > 127 else 3]


@pytest.mark.parametrize(
    ("text", "named"),
    [("abz", "'z'"), ("a\0b", r"'\x00'"), ("\U0001f600", "'\U0001f600'"), ("zyxwvut", "'t', 'u', 'v', 'w', 'x'")],
)
def test_char_names_the_characters_it_does_not_know(text: str, named: str) -> None:
    with pytest.raises(KitError) as caught:
        learnt(Char(), "abcd").encode_batch(["ab", text])
    assert str(caught.value) == f"not in the vocabulary of 4 characters: {named}"


def test_char_leaves_out_and_counts_what_it_does_not_know_where_it_is_told_to() -> None:
    encoder = learnt(Char(unknown="skip"), "abcd\u2603")
    for text, kept in {"a\0bz": "ab", "\U0001f600a\u2603": "a\u2603", "xyz": "", "dcba": "dcba"}.items():
        (ids,) = encoder.encode_batch([text])
        assert encoder.decode(ids) == kept
        assert encoder.count_unknown(text, ids) == len(text) - len(kept)


# --- published vocabularies -------------------------------------------------------------------------------------


@pytest.fixture
def gpt2(gpt2_vocabulary: None) -> Encoder:
    return learnt(GPT2())


@pytest.fixture
def oracle(gpt2_vocabulary: None) -> tiktoken.Encoding:
    return tiktoken.get_encoding("gpt2")


def test_gpt2_makes_the_published_number_of_tokens_of_tiny_shakespeare(gpt2: Encoder, shakespeare: Path) -> None:
    text = shakespeare.read_text(encoding="utf-8")
    (ids,) = gpt2.encode_batch([text])
    assert (len(ids), gpt2.vocab_size, gpt2.eot_id) == (338_025, 50_257, 50_256)  # nanoGPT's data/shakespeare
    assert gpt2.decode(ids) == text


def test_gpt2_has_the_ids_of_tiktoken(gpt2: Encoder, oracle: tiktoken.Encoding) -> None:
    @given(adversarial)
    def check(text: str) -> None:
        assert ids_of(gpt2, text) == oracle.encode_ordinary(text)

    check()
    for bytes_, token in oracle._mergeable_ranks.items():
        assert gpt2.decode_bytes([token]) == bytes_


def test_gpt2_takes_what_looks_like_a_special_token_for_text(gpt2: Encoder) -> None:
    assert gpt2.decode(ids_of(gpt2, "<|endoftext|>")) == "<|endoftext|>"
    assert gpt2.decode_bytes([*ids_of(gpt2, "hello"), 50_256]) == b"hello"


def test_half_a_surrogate_pair_is_no_text(gpt2: Encoder) -> None:
    others = [learnt(Byte()), learnt(Char(unknown="skip"), "a"), learnt(BPE(vocab_size=257))]
    for encoder in (gpt2, *others):
        with pytest.raises(UnicodeEncodeError):
            encoder.encode_batch(["a", "a\ud800"])


def test_states_of_the_first_version_are_restored(gpt2: Encoder, oracle: tiktoken.Encoding) -> None:
    """It kept the pattern of the tiktoken it found."""
    first = BPEEncoder.from_ranks("'s| ?[\\p{L}]+| ?[^\\s\\p{L}]+|\\s+", {EOT: 50_256}, oracle._mergeable_ranks)
    for kind in (GPT2(), Tiktoken()):
        restore_encoder = kind.restore(json.loads(json.dumps(first.state())))
        assert ids_of(restore_encoder, "To be,") == oracle.encode_ordinary("To be,")
        assert (restore_encoder.vocab_size, restore_encoder.eot_id) == (50_257, 50_256)
        assert restore_encoder.last_safe_cut("what is not known, is not cut ") == 0


@pytest.mark.parametrize("kind", [GPT2, Tiktoken])
def test_a_copy_of_the_vocabulary_needs_no_network(kind: type[GPT2 | Tiktoken], r50k: Path, gpt2: Encoder) -> None:
    options = {"encoding": "r50k_base"} if kind is Tiktoken else {}
    assert learnt(kind(file=str(r50k), **options)).state() == gpt2.state()


@pytest.mark.usefixtures("shakespeare")  # whose folder has the published vocabulary
def test_p50k_base_is_gpt2_with_runs_of_spaces(r50k: Path, tmp_path: Path, oracle: tiktoken.Encoding) -> None:
    """Which is how its file can be made here; its sha256 is the published one."""
    path = tmp_path / "p50k_base.tiktoken"
    spaces = BPEEncoder.from_ranks("", {EOT: 0}, {b" " * (2 + n): n for n in range(24)}).state()["tokens"].split(" ")
    tokens = [line.split()[0] for line in r50k.read_text().splitlines()]
    path.write_text(vocabulary_file([*tokens, "", *spaces]), encoding="ascii")
    kind = Tiktoken(encoding="p50k_base", file=str(path))
    encoder = learnt(kind)
    assert (encoder.vocab_size, encoder.eot_id) == (kind.known_vocab_size(), 50_256) == (50_281, 50_256)
    assert ids_of(encoder, "def f():\n    pass") == [4299, 277, 33529, 198, 50_258, 1208]
    assert encoder.decode_bytes(range(50_255, 50_259)) == oracle.decode_bytes([50_255]) + b" " * 5
    assert kind.restore(json.loads(json.dumps(encoder.state()))).state() == encoder.state()


def test_ids_without_a_token_have_no_bytes() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 258}
    encoder = BPEEncoder.from_ranks(CL100K, {EOT: 257, "<|endofprompt|>": 261}, ranks)  # 256, 259 and 260 are nobody's
    assert encoder.vocab_size == 262
    assert encoder.decode_bytes(range(97, 262)) == bytes(range(97, 256)) + b"ab"
    assert BPEEncoder(json.loads(json.dumps(encoder.state()))).decode_bytes([258, 260]) == b"ab"
    assert ids_of(encoder, "abc") == [258, 99]


def test_what_is_known_of_the_encodings_is_what_tiktoken_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def load(file: str, expected_hash: str) -> dict[bytes, int]:
        asked["file"], asked["sha256"] = file.rpartition("/")[2], expected_hash
        return {}

    from tiktoken_ext import openai_public

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", load)
    assert set(PUBLISHED) == set(VOCAB_SIZES)
    for name in PUBLISHED.keys() - {"gpt2"}:
        told = openai_public.ENCODING_CONSTRUCTORS[name]()
        known = PUBLISHED[name]
        assert {"file": known.file, "sha256": known.sha256} == asked
        assert (known.pattern, known.special) == (told["pat_str"], told["special_tokens"])
        assert VOCAB_SIZES[name] == told.get("explicit_n_vocab", max(known.special.values()) + 1)
    assert PUBLISHED["gpt2"] == PUBLISHED["r50k_base"]


def test_a_file_that_was_not_published_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r50k_base.tiktoken"
    with pytest.raises(KitError, match=r"r50k_base\.tiktoken: cannot be read: No such file"):
        learnt(GPT2(file=str(path)))
    path.write_text("IQ== 0\n")
    with pytest.raises(
        KitError, match=r"r50k_base\.tiktoken: its SHA-256 is [0-9a-f]{64}; that of the published r50k_base"
    ):
        learnt(GPT2(file=str(path)))
    assert path.exists()


@pytest.mark.parametrize(
    ("name", "made", "file"),
    [
        ("gpt2", "gpt2 import GPT2 as Kind; options = {}", "r50k_base.tiktoken"),
        ("o200k_base", "tiktoken import Tiktoken as Kind; options = {'encoding': 'o200k_base'}", "o200k_base.tiktoken"),
    ],
)
def test_without_its_vocabulary_an_encoding_says_what_to_do(name: str, made: str, file: str, tmp_path: Path) -> None:
    code = (
        "import tiktoken.load\n"
        "def offline(*a, **k): raise OSError('no network')\n"
        "tiktoken.load.read_file = offline\n"
        f"from nanogpt_kit.components.tokenizer.{made}\n"
        "from nanogpt_kit.api import KitError\n"
        "try: Kind(**options).build(None)\n"
        "except KitError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"TIKTOKEN_CACHE_DIR": str(tmp_path)}
    )
    assert f"the vocabulary of {name} cannot be downloaded: no network; set TIKTOKEN_CACHE_DIR" in answer.stdout, answer
    assert f"tokenizer.file=<a copy of {file}>" in answer.stdout
    assert "tokenizer.use=byte" in answer.stdout


# --- text of ASCII alone, which takes a shorter way -----------------------------------------------------------


ascii_text = st.lists(
    st.one_of(
        st.text(st.characters(max_codepoint=127), max_size=4),
        st.sampled_from(
            ["'s", "'T", "'ll", "'VE", "  ", "\r\n", "\n\n", "\x1c", "\x0b", "HELLO", "Ab", "1234", "_", EOT, " the"]
        ),
    ),
    max_size=15,
).map("".join)


@pytest.mark.parametrize("pattern", [R50K, CL100K, O200K], ids=["r50k", "cl100k", "o200k"])
def test_ascii_text_has_the_ids_of_tiktoken(pattern: str, oracle: tiktoken.Encoding) -> None:
    encoder = BPEEncoder.from_ranks(pattern, {EOT: 50_256}, oracle._mergeable_ranks)

    @given(ascii_text)
    def check(text: str) -> None:
        assert text.isascii()
        assert ids_of(encoder, text) == encoder.encoding.encode_ordinary(text)

    check()


@pytest.mark.parametrize("pattern", [R50K, CL100K, O200K], ids=["r50k", "cl100k", "o200k"])
def test_text_that_is_ascii_in_part_has_the_ids_of_tiktoken(
    pattern: str, oracle: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ascii_pieces, "BLOCK_CHARACTERS", 2)
    encoder = BPEEncoder.from_ranks(pattern, {EOT: 50_256}, oracle._mergeable_ranks)

    @given(
        st.lists(st.one_of(ascii_text, adversarial, st.sampled_from([" ", "    é", "é\n   a"])), max_size=6).map(
            "".join
        )
    )
    def check(text: str) -> None:
        assert "".join(ascii_pieces.ascii_blocks(text)) == text
        assert ids_of(encoder, text) == encoder.encoding.encode_ordinary(text)

    check()
    assert [*ascii_pieces.ascii_blocks("all of it é but this, and that")] == ["all of it", " é but", " this, and that"]


def test_pieces_are_remembered_within_bounds(gpt2: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(gpt2, BPEEncoder)
    monkeypatch.setattr(bpe_module, "MAX_CACHED_PIECES", 20)
    monkeypatch.setattr(gpt2.encoding, "encode_to_numpy", None)  # the longer way
    text = " ".join(f"{'a' * n}b" for n in range(200))
    for _ in range(3):
        assert gpt2.decode(ids_of(gpt2, text)) == text
        assert len(gpt2._piece_cache) <= 2 * 64  # of the last batch, the short ones
    assert all(len(piece) <= 64 for piece in gpt2._piece_cache)


# --- where a text may be cut ------------------------------------------------------------------------------------


def check_cuts(encoder: Encoder) -> None:
    @given(adversarial, adversarial)
    def check(text: str, follower: str) -> None:
        whole = "a " + text + follower
        cut = encoder.last_safe_cut("a " + text)
        assert cut >= 1
        assert ids_of(encoder, whole[:cut]) + ids_of(encoder, whole[cut:]) == ids_of(encoder, whole)

    check()


@pytest.mark.parametrize("pattern", [R50K, CL100K, O200K], ids=["r50k", "cl100k", "o200k"])
def test_a_cut_text_has_the_ids_of_the_whole(pattern: str, oracle: tiktoken.Encoding) -> None:
    """Of GPT-2's merges, split by each of the patterns: the others' merges cannot be had without a network."""
    encoder = BPEEncoder.from_ranks(pattern, {EOT: 50_256}, oracle._mergeable_ranks)
    check_cuts(encoder)


@pytest.mark.parametrize("make", [byte_level, llama3, qwen2])
def test_a_tokenizer_file_that_splits_alike_is_cut_alike(make: Callable[[], hf.Tokenizer], tmp_path: Path) -> None:
    encoder = learnt(HuggingFace(file=saved(make(), tmp_path)))
    check_cuts(encoder)


@pytest.mark.parametrize(
    ("token", "cuts"),
    [
        (hf.AddedToken("New York"), False),
        (hf.AddedToken("U.S.A"), False),
        (hf.AddedToken("XX", rstrip=True), False),
        (hf.AddedToken("XX", single_word=True), False),
        (hf.AddedToken("<tool_call>"), True),
        (hf.AddedToken("New York", special=True), True),
    ],
)
def test_no_cut_goes_through_an_added_token(token: hf.AddedToken, cuts: bool, tmp_path: Path) -> None:
    tokenizer = byte_level()
    (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    encoder = learnt(HuggingFace(file=saved(tokenizer, tmp_path)))
    assert bool(encoder.last_safe_cut("some words in New York ")) == cuts


def test_a_tokenizer_file_may_have_the_size_of_large_vocabularies(tmp_path: Path) -> None:
    """Those of 128,000 tokens and more have 9 to 35 MB, far more than an experiment file may have."""
    path = Path(saved(byte_level(), tmp_path))
    ids = ids_of(learnt(HuggingFace(file=str(path))), PROSE)
    path.write_text(path.read_text(encoding="utf-8") + " " * 6_000_000, encoding="utf-8")
    assert ids_of(learnt(HuggingFace(file=str(path))), PROSE) == ids


def test_the_dropout_of_a_tokenizer_file_is_off(tmp_path: Path) -> None:
    tokenizer = byte_level()
    plain = ids_of(learnt(HuggingFace(file=saved(tokenizer, tmp_path))), PROSE)
    tokenizer.model.dropout = 0.5
    assert ids_of(learnt(HuggingFace(file=saved(tokenizer, tmp_path))), PROSE) == plain


def test_a_document_that_a_tokenizer_file_cannot_cut_has_a_limit(tmp_path: Path) -> None:
    encoder = learnt(HuggingFace(file=saved(words(), tmp_path)))
    assert encoder.last_safe_cut("some words " * 100_000) == 0
    with pytest.raises(KitError, match=r"a document of more than 16,000,000 characters, which this tokenizer\.json"):
        encoder.last_safe_cut("some words " * 2_000_000)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("To be, or not ", 13),
        ("To be, or not", 9),
        ("no more\n", 7),
        ("no more!\n", 2),
        ("1,2,3,", 5),
        ("\u4e2d\u6587\u3002\u4e2d\u6587", 2),
        ("\u0e44\u0e17\u0e22 \u0e44", 3),
        ("two  spaces; it's", 12),
        (" ", 0),
        (" a", 0),
        ("donaudampfschiff", 0),
        ("it's", 0),
        ("e\u0301,", 0),
        ("", 0),
    ],
)
def test_it_is_cut_as_late_as_can_be(text: str, cut: int) -> None:
    assert learnt(BPE(vocab_size=257)).last_safe_cut(text) == cut


# --- trained here -----------------------------------------------------------------------------------------------


def test_bpe_has_the_ids_of_the_library_that_trained_it(prose: Path) -> None:
    text = prose.read_text(encoding="utf-8")
    lengths = []
    for vocab_size in (300, 1_000):
        encoder = learnt(BPE(vocab_size=vocab_size), text)
        (ids,) = encoder.encode_batch([text])
        library = hf.Tokenizer(hf.models.BPE())
        library.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
        trainer = hf.trainers.BpeTrainer(
            vocab_size=vocab_size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        library.train_from_iterator([text], trainer)
        names = library.encode(text).tokens
        library.decoder = hf.decoders.ByteLevel()
        letters = {letter: bytes([byte]) for letter, byte in BPEEncoder.letters.items()}
        spelled = [b"".join(letters[letter] for letter in name) for name in names]
        assert [encoder.decode_bytes([token]) for token in ids.tolist()] == spelled
        assert (encoder.vocab_size, encoder.eot_id) == (vocab_size, vocab_size - 1)
        assert encoder.decode(ids) == text
        lengths.append(len(ids))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < len(text) / 2.5


def test_bpe_numbers_bytes_first_and_then_merges_in_order() -> None:
    encoder = learnt(BPE(vocab_size=259), "abab abab ab ab xyz")
    assert [encoder.decode_bytes([token]) for token in range(256)] == [bytes([byte]) for byte in range(256)]
    assert [encoder.decode_bytes([token]) for token in (256, 257, 258)] == [b"ab", b" ab", b""]


def test_bpe_puts_no_space_before_a_text() -> None:
    encoder = learnt(BPE(), "ab", "", "ab")
    assert encoder.decode_bytes(range(256, encoder.vocab_size)) == b"ab"


def test_bpe_learns_from_the_train_split_alone() -> None:
    alone = learnt(BPE(min_frequency=1), "to be or not to be", "")
    assert learnt(BPE(min_frequency=1), "to be or not to be", "zzzz zzzz zzzz").state() == alone.state()


def test_little_text_gives_the_tokens_that_it_has() -> None:
    assert learnt(BPE()).vocab_size == 257
    assert 257 < learnt(BPE(), "to be or not to be").vocab_size < 300


def test_the_same_text_trains_the_same_tokens_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(PROSE, encoding="utf-8")
    code = (
        "import hashlib, json, os, pathlib, sys\n"
        "from nanogpt_kit.api import TextContext\n"
        "from nanogpt_kit.components.tokenizer.bpe import BPE\n"
        "text = pathlib.Path(sys.argv[1]).read_text(encoding='utf-8').splitlines(keepends=True)\n"
        "encoder = BPE(vocab_size=600).build(TextContext(splits=('train',), documents=lambda split: iter(text)))\n"
        "print(hashlib.sha256(json.dumps(encoder.state()).encode()).hexdigest(), flush=True)\n"
        "if os.fork() == 0: os._exit(0)\n"
        "os.wait()\n"
    )
    plain = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    answers = [
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True,
            text=True,
            env={**plain, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
        )
        for seed, threads in (("1", "1"), ("2", "2"))
    ]
    assert [answer.stderr for answer in answers] == ["", ""]  # no progress bar, no warning of a fork
    assert answers[0].stdout == answers[1].stdout != ""


# --- any tokenizer.json -----------------------------------------------------------------------------------------


def test_huggingface_has_the_ids_of_the_library(tmp_path: Path) -> None:
    for tokenizer in (byte_level(), unigram(), word_piece(), words()):
        encoder = learnt(HuggingFace(file=saved(tokenizer, tmp_path)))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        for text in (PROSE, "a <|im_end|> b", "a [SEP] b", *TokenizerConformance.texts):
            assert ids_of(encoder, text) == tokenizer.encode(text, add_special_tokens=False).ids
        assert encoder.vocab_size == tokenizer.get_vocab_size()


def test_sentencepiece_gives_text_back_but_for_spaces_before_it(tmp_path: Path) -> None:
    encoder = learnt(HuggingFace(file=saved(unigram(), tmp_path)))

    @given(adversarial)
    def check(text: str) -> None:
        for name in ("\u2581", "<0x41>", "<unk>"):  # a space, a byte and the unknown, there as here
            text = text.replace(name, "")
        (ids,) = encoder.encode_batch([text])
        assert encoder.decode(ids).lstrip(" ") == text.lstrip(" ")
        assert encoder.count_unknown(text, ids) == 0

    check()


def test_words_have_spaces_between_them_and_parts_of_words_do_not(tmp_path: Path) -> None:
    encoder = learnt(HuggingFace(file=saved(word_piece(), tmp_path)))
    (ids,) = encoder.encode_batch(["Everybody, soft says"])
    assert encoder.decode(ids) == "everybody, soft says"
    assert len(ids) > 3


PIECES = (
    *(
        "<pad>",
        "<unk>",
        "the",
        "a",
        "\u2581the",
        "\u2581",
        "\u2581\u2581",
        " ",
        "  ",
        " a",
        "a ",
        "##ing",
        "##a",
        "b</w>",
    ),
    *("</w>", "|", ",", ".", "!", " n't", "do not", "<0xE2>", "<0x98>", "<0x83>", "<0x41>", "<0x+A>", "<0xff>", "<0x>"),
    *("\u2581<0x41>", "\u2603", "\ufffd", "\u0120x", "\u0120", "\xe9", "\u2581n't"),
)
FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
SPACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
PATTERN = {"type": "Replace", "pattern": {"Regex": "a+$"}, "content": "XY"}
META = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
NEVER = {**META, "prepend_scheme": "never"}
WORDS = {"type": "WordPiece", "prefix": "##", "cleanup": True}
ENDS = {"type": "BPEDecoder", "suffix": "</w>"}
SPEECH = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
LETTERS = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def strip(start: int, stop: int, content: str = " ") -> dict[str, object]:
    return {"type": "Strip", "content": content, "start": start, "stop": stop}


def chain(*decoders: object) -> dict[str, object]:
    return {"type": "Sequence", "decoders": list(decoders)}


DECODERS = {
    "none": None,
    "byte level": LETTERS,
    "byte level in a chain": chain(chain(LETTERS)),
    "word piece": WORDS,
    "word piece as it is": {**WORDS, "cleanup": False},
    "metaspace": META,
    "metaspace without a prefix": NEVER,
    "ends of words": ENDS,
    "speech": SPEECH,
    "fuse": FUSE,
    "bytes": FALLBACK,
    "replace": SPACE,
    "pattern": PATTERN,
    "strip": strip(1, 0),
    "strip of the end": strip(0, 1),
    "gemma": chain(SPACE, FALLBACK, FUSE),
    "llama 2": chain(SPACE, FALLBACK, FUSE, strip(1, 0)),
    "t5": chain(FALLBACK, META),
    "mistral": chain(FALLBACK, FUSE, META),
    "strips far": chain(FALLBACK, FUSE, strip(5, 0, "a")),
    "strips the end": chain(SPACE, FUSE, strip(0, 1)),
    "pattern of the whole": chain(SPACE, FUSE, PATTERN),
    "pattern behind ends": chain(ENDS, PATTERN),
    "letters, then more": chain(LETTERS, strip(1, 0, "a")),
    "more, then ends": chain(SPACE, FALLBACK, ENDS),
    "bytes behind speech": chain(SPEECH, FALLBACK),
    "bytes twice": chain(FALLBACK, SPACE, FALLBACK),
    "empty": chain(),
}
WAIT = {"strips the end", "pattern of the whole", "pattern behind ends", "letters, then more", "bytes behind speech"}


def pieces(decoder: object, folder: Path) -> tuple[hf.Tokenizer, Encoder]:
    """A vocabulary of all that decoders look for."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {**special, "id": 0, "content": "<pad>"},
        {**special, "id": len(PIECES), "content": "\xe9 \u2581x", "special": False},
    ]
    parts = {
        "version": "1.0",
        "added_tokens": added[1:] if decoder is SPEECH else added,
        "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(parts))
    return hf.Tokenizer.from_file(str(path)), learnt(HuggingFace(file=str(path)))


@pytest.mark.parametrize("name", DECODERS)
def test_each_decoder_of_the_library_decodes_as_there_whole_and_streamed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_decoder, "MAX_STREAM_TOKENS", 5)
    monkeypatch.setattr(library_decoder, "CONTEXT_TOKENS", 2)
    library, encoder = pieces(DECODERS[name], tmp_path)
    every = st.lists(st.integers(0, len(PIECES)), max_size=25)

    def decode(ids: list[int]) -> str:
        return library.decode(ids) if set(ids) - {0} else ""  # it strips the end of no text by a panic

    @given(every, every)
    def check(before: list[int], ids: list[int]) -> None:
        prompt, whole = decode(before), decode([*before, *ids])
        assert encoder.decode([*before, *ids]) == whole
        alone = encoder.stream()
        assert "".join(map(alone.add, ids)) + alone.rest() == decode(ids)
        if "\ufffd" not in whole:
            assert encoder.decode_bytes([*before, *ids]) == whole.encode()
        if whole.startswith(prompt) and "\ufffd" not in prompt:
            following = encoder.stream(before)
            assert prompt + "".join(map(following.add, ids)) + following.rest() == whole

    check()


@pytest.mark.parametrize("name", sorted(DECODERS.keys() - WAIT - {"bytes twice", "mistral"}))
def test_a_decoder_that_looks_at_no_later_token_does_not_wait(name: str, tmp_path: Path) -> None:
    stream = pieces(DECODERS[name], tmp_path)[1].stream()
    assert all(stream.add(PIECES.index(piece)).strip() for piece in ("the", "a", "##ing", "the"))


REPEATS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


def test_a_panic_of_the_library_names_the_file(tmp_path: Path) -> None:
    _, encoder = pieces(strip(1, 1), tmp_path)
    with pytest.raises(KitError, match=r"tokenizer\.json"):
        encoder.decode([PIECES.index(" ")])
    _, encoder = pieces(chain(strip(1, 1), FALLBACK), tmp_path)  # other tokens are decoded
    assert encoder.decode([PIECES.index("the")]) == "the"
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "slow.json").write_text(json.dumps({**parts, "pre_tokenizer": REPEATS}))
    with pytest.raises(KitError, match=r"slow\.json"):
        learnt(HuggingFace(file=str(tmp_path / "slow.json"))).encode_batch(["a" * 40 + "b"])


def test_single_bytes_are_counted_as_bytes(tmp_path: Path) -> None:
    _, encoder = pieces(DECODERS["gemma"], tmp_path)
    snowman, letter = [PIECES.index(name) for name in ("<0xE2>", "<0x98>", "<0x83>")], PIECES.index("a")
    assert encoder.decode_bytes(snowman) == "\u2603".encode()
    assert encoder.decode_bytes([*snowman[:2], letter, snowman[2]]) == b"\xe2\x98a\x83"
    assert encoder.decode_bytes([letter, snowman[0], snowman[0]]) == b"a\xe2\xe2"


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    for tokenizer in (word_piece(), words(), unigram(byte_fallback=False)):
        encoder = learnt(HuggingFace(file=saved(tokenizer, tmp_path)))
        text = "times \u00e9 is \U0001f600"
        (ids,) = encoder.encode_batch([text])
        assert encoder.count_unknown(text, ids) == 2
        assert encoder.decode(ids).split() == ["times", "is"]


def test_huggingface_finds_the_token_that_ends_a_document(tmp_path: Path) -> None:
    tokenizer = byte_level()
    for name in reversed(library_encoder.LibraryEncoder.common_eot_tokens):
        tokenizer.add_special_tokens([name])
        encoder = learnt(HuggingFace(file=saved(tokenizer, tmp_path)))
        assert encoder.eot_id == tokenizer.token_to_id(name)
    kind = HuggingFace(file=saved(tokenizer, tmp_path), eot="<|im_end|>")
    encoder = learnt(kind)
    assert encoder.eot_id == tokenizer.token_to_id("<|im_end|>")
    assert HuggingFace(file="gone").restore(encoder.state()).eot_id == encoder.eot_id
    with pytest.raises(
        KitError, match=r"the token '<\|imend\|>', which tokenizer\.eot names; did you mean '<\|im_end\|>'"
    ):
        learnt(HuggingFace(file=kind.file, eot="<|imend|>"))


def test_a_vocabulary_without_such_a_token_ends_no_document(tmp_path: Path) -> None:
    tokenizer = hf.Tokenizer(hf.models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    encoder = learnt(HuggingFace(file=saved(tokenizer, tmp_path)))
    assert (encoder.eot_id, encoder.vocab_size) == (None, 8)
    assert encoder.decode(range(8)) == "a b"


@pytest.mark.parametrize("content", ["{}", "no JSON", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(KitError, match=r"tokenizer\.json: cannot be read: No such file"):
        learnt(HuggingFace(file=str(path)))
    path.write_text(content)
    with pytest.raises(KitError, match=r"tokenizer\.json: not a tokenizer\.json: "):
        learnt(HuggingFace(file=str(path)))


def test_huggingface_refuses_half_a_surrogate_pair(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        learnt(HuggingFace(file=saved(words(), tmp_path))).encode_batch(["a", "a\ud800"])


# --- states that others have written ----------------------------------------------------------------------------

ASCII = " ".join(base64.b64encode(bytes([byte])).decode() for byte in range(256))
BYTE_STATE = {"pattern": R50K, "special": {EOT: 256}, "tokens": ASCII}
HOSTILE = {
    "characters that are a number": (Char(), {"characters": 5}),
    "characters in a list": (Char(), {"characters": ["a", 5]}),
    "a character twice": (Char(), {"characters": "aba"}),
    "half a surrogate pair": (Char(), {"characters": "a\ud800"}),
    "no characters": (Char(), {}),
    "no tokens": (BPE(), {}),
    "tokens that are a number": (BPE(), {**BYTE_STATE, "tokens": 5}),
    "tokens that are not base64": (BPE(), {**BYTE_STATE, "tokens": "abcde"}),
    "no end of text": (BPE(), {**BYTE_STATE, "special": {}}),
    "an end beyond memory": (GPT2(), {**BYTE_STATE, "special": {EOT: 10**12}}),
    "a negative end": (GPT2(), {**BYTE_STATE, "special": {EOT: -1}}),
    "a pattern that is none": (GPT2(), {**BYTE_STATE, "pattern": "("}),
    "a pattern that is a number": (GPT2(), {**BYTE_STATE, "pattern": 5}),
    "a tokenizer that is a number": (HuggingFace(file="kept"), {"json": 5, "eot": None}),
    "a tokenizer that is not JSON": (HuggingFace(file="kept"), {"json": "{", "eot": None}),
    "a deep tokenizer": (HuggingFace(file="kept"), {"json": "[" * 100_000, "eot": None}),
    "half a surrogate pair in JSON": (HuggingFace(file="kept"), {"json": "\ud800", "eot": None}),
    "an end that is a number": (HuggingFace(file="kept"), {"json": words().to_str(), "eot": 5}),
    "an id beyond memory": (
        HuggingFace(file="kept"),
        {"json": words().to_str().replace('"is":', '"is":400000000'), "eot": None},
    ),
}


@pytest.mark.parametrize(("kind", "state"), HOSTILE.values(), ids=HOSTILE)
def test_a_state_that_no_tokenizer_has_written_is_refused(kind: Tokenizer, state: dict[str, object]) -> None:
    with pytest.raises(KitError):
        restore_encoder(kind, state)


def test_a_vocabulary_that_lacks_bytes_is_refused_where_it_is_used() -> None:
    encoder = BPEEncoder({**BYTE_STATE, "tokens": ASCII[:50]})
    with pytest.raises(KitError, match="vocabulary"):
        encoder.encode_batch(["\xe9"])
