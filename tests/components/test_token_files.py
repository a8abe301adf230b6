"""Token files of others, written here as their formats have it: nanoGPT's, llm.c's, modded-nanogpt's."""

from __future__ import annotations

import os
import pickle
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import KitError
from nanogpt_kit.components.dataset.token_files import TokenFiles
from nanogpt_kit.corpus.token_file import READ_TOKENS
from nanogpt_kit.testing.dataset import DatasetConformance

GPT2, LLAMA3 = (20240520, 1), (20240801, 7)


def raw(path: Path, tokens: list[int], code: str = "H") -> Path:
    path.write_bytes(struct.pack(f"<{len(tokens)}{code}", *tokens))
    return path


def shard(path: Path, tokens: list[int], kind: tuple[int, int] = GPT2, count: int | None = None) -> Path:
    """256 int32, then the tokens; see llm.c's write_datafile."""
    count = len(tokens) if count is None else count
    header = array("i", [*kind, count, *[0] * 253])
    body = array("I" if kind == LLAMA3 else "H", tokens)
    path.write_bytes(header.tobytes() + body.tobytes())
    return path


def meta(folder: Path, letters: str, **more: Any) -> None:
    """As nanoGPT's data/shakespeare_char/prepare.py has it."""
    by_id = dict(enumerate(letters))
    values = {"vocab_size": len(letters), "itos": by_id, "stoi": {letter: at for at, letter in by_id.items()}, **more}
    (folder / "meta.pkl").write_bytes(pickle.dumps(values))


def tokens_of(folder: Path, split: str, **options: Any) -> list[int]:
    pieces = list(TokenFiles(source=str(folder), **options).tokens(split))
    return np.concatenate(pieces).tolist()


def refusal(folder: Path, split: str = "train", **options: Any) -> str:
    with pytest.raises(KitError) as caught:
        tokens_of(folder, split, **options)
    return str(caught.value)


def test_nanogpts_files_are_nothing_but_tokens(tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", [0, 50256, 65535, 3])
    raw(tmp_path / "val.bin", [7])
    assert tokens_of(tmp_path, "train") == [0, 50256, 65535, 3]
    assert tokens_of(tmp_path, "val") == [7]
    assert TokenFiles(source=str(tmp_path)).vocabulary() is None


def test_files_without_a_header_may_hold_wider_tokens(tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", [1, 128_255, 2**31], "I")
    assert tokens_of(tmp_path, "train", dtype="uint32") == [1, 128_255, 2**31]


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        shard(tmp_path / f"fineweb_train_{number:06d}.bin", [number, 50256])
    shard(tmp_path / "fineweb_val_000000.bin", [4, 5, 6])
    (tmp_path / "fineweb_train_000001.txt").write_text("no")
    assert tokens_of(tmp_path, "train") == [1, 50256, 2, 50256, 10, 50256]
    assert tokens_of(tmp_path, "val") == [4, 5, 6]


def test_llama_3s_shards_hold_wider_tokens(tmp_path: Path) -> None:
    shard(tmp_path / "tiny_shakespeare_train.bin", [128_000, 5], LLAMA3)
    (piece,) = TokenFiles(source=str(tmp_path)).tokens("train")
    assert piece.dtype == np.uint32
    assert piece.tolist() == [128_000, 5]


def test_a_large_file_comes_in_pieces(tmp_path: Path) -> None:
    tokens = (np.arange(2 * READ_TOKENS + 5) % 50_000).tolist()
    shard(tmp_path / "train.bin", tokens)
    pieces = list(TokenFiles(source=str(tmp_path)).tokens("train"))
    assert [len(piece) for piece in pieces] == [READ_TOKENS, READ_TOKENS, 5]
    assert np.concatenate(pieces).tolist() == tokens


@pytest.mark.parametrize("kind", [GPT2, LLAMA3, (20240522, 1)])
def test_tokens_that_begin_like_a_header_are_tokens(tmp_path: Path, kind: tuple[int, int]) -> None:
    """Only zeros after them would be a header."""
    tokens = [*struct.unpack("<4H", struct.pack("<2i", *kind)), *range(600)]
    raw(tmp_path / "train.bin", tokens)
    assert tokens_of(tmp_path, "train") == tokens


@pytest.mark.parametrize("count", [1, 2, 3, 511, 512, 513])
def test_files_of_any_length_without_a_header_are_read(tmp_path: Path, count: int) -> None:
    raw(tmp_path / "train.bin", [0] * count)
    assert tokens_of(tmp_path, "train") == [0] * count


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.touch(), " is empty"),
        (lambda path: path.write_bytes(b"\1\2\3"), ": 3 bytes are not a whole number of uint16 tokens"),
        (lambda path: shard(path, [1, 2, 3], count=4), ": its header records 4 tokens, but there are 3;"),
        (lambda path: shard(path, [1, 2], count=1), ": its header records 1 tokens, but there are 2;"),
        (
            lambda path: path.write_bytes(shard(path, [1, 2]).read_bytes()[:-1]),
            ": its header records 2 tokens, but there are 1.5;",
        ),
        (
            lambda path: path.write_bytes(shard(path, [1, 2]).read_bytes()[:100]),
            ": its header records 2 tokens, but there are 0;",
        ),
        (
            lambda path: shard(path, [1], (20240520, 2)),
            (" is of an unknown kind: magic 20240520 version 2; known: 20240520 version 1 and 20240801 version 7"),
        ),
        (lambda path: shard(path, [1], (20240522, 1)), " is of an unknown kind: magic 20240522 version 1;"),
    ],
)
def test_a_file_that_does_not_add_up_is_named(tmp_path: Path, make: Callable[[Path], object], told: str) -> None:
    shard(tmp_path / "a_train.bin", [1])
    make(tmp_path / "b_train.bin")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'b_train.bin'}{told}")


# --- .npy, as build-nanogpt writes it -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", "<u4", ">u4", "<i4", "<i8", ">i8", "<u8", "u1"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_shards_say_their_type_themselves(tmp_path: Path, dtype: str, version: tuple[int, int]) -> None:
    ids = np.array([100, 0, 7, 0, 8, 0, 0] * 9, dtype=dtype)
    for name in ("edufineweb_train_000001.npy", "edufineweb_train_000002.npy", "edufineweb_val_000000.npy"):
        with (tmp_path / name).open("wb") as file:
            np.lib.format.write_array(file, ids, version)
    assert tokens_of(tmp_path, "train") == ids.tolist() * 2
    assert tokens_of(tmp_path, "val", dtype="uint32") == ids.tolist()
    assert TokenFiles(source=str(tmp_path)).token_count() == 3 * len(ids)


def test_npy_files_may_be_named_by_option_whatever_their_ending(tmp_path: Path) -> None:
    with (tmp_path / "a.dat").open("wb") as file:
        np.save(file, np.arange(5, dtype=np.uint16))
    assert tokens_of(tmp_path, "train", train="a.dat") == list(range(5))
    assert tokens_of(tmp_path, "train", train=str(tmp_path / "*.dat")) == list(range(5))


def save(path: Path, array: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: save(path, np.array([Harm()], dtype=object)), "Python objects.*pickle"),
        (lambda path: save(path, np.array([(1, Harm())], dtype=[("a", "i4"), ("b", "O")])), "Python objects.*pickle"),
        (lambda path: save(path, np.ones(9, dtype=np.float32)), "float32; token ids are integers"),
        (lambda path: save(path, np.array(["a"])), "<U1; token ids are integers"),
        (lambda path: save(path, np.ones((3, 4), dtype=np.uint16)), r"shape \(3, 4\); .*reshape"),
        (lambda path: save(path, np.array(3, dtype=np.uint16)), r"shape \(\); "),
        (lambda path: path.write_bytes(save(path, np.arange(9)).read_bytes()[:-3]), "9 tokens, .* 8.625; .*cut short"),
        (lambda path: path.write_bytes(save(path, np.arange(9)).read_bytes() + b"ab"), "records 9 tokens, .* 9.25"),
        (lambda path: path.write_bytes(save(path, np.arange(9)).read_bytes()[:40]), r"\.npy header is damaged"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x09\x00" + bytes(90)), r"\.npy header is damaged or unknown"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), r"\.npy header is damaged"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x0a\x00" + b"(" * 10), r"\.npy header is damaged"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{"), r"\.npy header is damaged"),
    ],
)
def test_an_npy_file_that_holds_no_tokens_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.npy"
    make(path)
    with pytest.raises(KitError, match=told) as caught:
        tokens_of(tmp_path, "train")
    assert str(caught.value).startswith(f"{path}: ")
    assert not Path("harm").exists()


def test_any_damage_to_an_npy_header_is_told_or_does_not_matter(tmp_path: Path) -> None:
    whole = save(tmp_path / "train.npy", np.arange(40, dtype=np.uint16)).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        raw = bytearray(whole)
        for place in rng.integers(6, 128, rng.integers(1, 4)):
            raw[place] = rng.integers(256)
        (tmp_path / "train.npy").write_bytes(raw)
        with suppress(KitError):
            tokens_of(tmp_path, "train")


def test_shards_of_two_kinds_are_not_mixed(tmp_path: Path) -> None:
    save(tmp_path / "train.npy", np.arange(4, dtype=np.uint16))
    raw(tmp_path / "train.bin", [1, 2])
    assert "has .bin and .npy files with 'train' in their names; choose, as in dataset.train = \"" in refusal(tmp_path)
    assert tokens_of(tmp_path, "train", train="*.bin") == [1, 2]


# --- what is not as `dtype` says ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["i", "I"])
def test_headerless_ids_of_32_bits_are_read_where_dtype_says_so(tmp_path: Path, code: str) -> None:
    raw(tmp_path / "train.bin", [1, 128_255, 5], code)
    assert tokens_of(tmp_path, "train", dtype="int32" if code == "i" else "uint32") == [1, 128_255, 5]


SPREAD = (np.arange(5000) * 7919 % 50_257).tolist()
SMALL = [1 + number % 60 for number in range(40)]
LARGE = (np.arange(5000) * 7919 % 128_256).tolist()


@pytest.mark.parametrize(
    ("ids", "code", "dtype", "right"),
    [
        (SPREAD, "i", "uint16", "uint32"),
        (SPREAD, "I", "uint16", "uint32"),
        (SPREAD, "q", "uint16", "int64"),
        (SPREAD, "q", "uint32", "int64"),
        (SPREAD, "q", "int32", "int64"),
        (SMALL, "i", "uint16", "uint32"),
        (SMALL, "q", "uint16", "int64"),
        (LARGE, "I", "uint16", "uint32"),
        ([*SPREAD] * 20, "I", "uint16", "uint32"),
    ],
)
@pytest.mark.parametrize("cut", [0, 2])
def test_wider_ids_than_dtype_says_are_refused_with_their_type(
    tmp_path: Path, ids: list[int], code: str, dtype: str, right: str, cut: int
) -> None:
    path = raw(tmp_path / "train.bin", ids, code)
    if cut and dtype == "uint16":
        path.write_bytes(path.read_bytes()[:-cut])
    message = refusal(tmp_path, dtype=dtype)
    assert message.startswith(f"{path}: ")
    assert f'dataset.dtype = "{right}"' in message


@pytest.mark.parametrize(
    "ids",
    [
        SPREAD,
        [number % 65 for number in range(9000)],
        [number % 4 for number in range(9000)],
        [0] * 9000,
        [5, 0] * 10,
        [number % 2 * 3 + 1 for number in range(9000)],
        [50_256, 0, 0, 0] * 3,
    ],
)
def test_ids_that_are_as_dtype_says_are_not_taken_for_wider_ones(tmp_path: Path, ids: list[int]) -> None:
    raw(tmp_path / "train.bin", ids)
    assert tokens_of(tmp_path, "train") == ids


def test_text_is_not_taken_for_tokens(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_text("To be, or not to be: that is the question. " * 4)
    assert 'is plain text, not a file of tokens; dataset.use = "text" reads it' in refusal(tmp_path)


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08\x00", b"\x80\x02", b"\x80\x04\x95\x10", b"BZh9", b"PAR", b"ID3\3"])
def test_tokens_that_begin_like_another_format_are_tokens(tmp_path: Path, magic: bytes) -> None:
    content = magic + np.random.default_rng(0).integers(0, 50_257, 3000).astype("<u2").tobytes()
    content += bytes(len(content) % 2)
    (tmp_path / "train.bin").write_bytes(content)
    assert tokens_of(tmp_path, "train") == np.frombuffer(content, dtype="<u2").tolist()


@pytest.mark.parametrize("form", ["headerless", "llm.c", ".npy"])
def test_a_token_is_placed_by_file_and_byte(tmp_path: Path, form: str) -> None:
    for number, count in ((1, 10), (2, 20)):
        path = tmp_path / f"a_train_{number}"
        if form == "headerless":
            raw(path.with_suffix(".bin"), [1] * count)
        elif form == "llm.c":
            shard(path.with_suffix(".bin"), [1] * count)
        else:
            save(path.with_suffix(".npy"), np.ones(count, dtype=np.uint16))
    place = TokenFiles(source=str(tmp_path)).token_location("train", 13)
    ending, begin = (".npy", 128) if form == ".npy" else (".bin", 1024 if form == "llm.c" else 0)
    assert place.startswith(f"{tmp_path / 'a_train_2'}{ending}: token 3 at byte {begin + 6}")
    assert ("uint16 (dataset.dtype)" in place) == (form == "headerless")


# --- which files --------------------------------------------------------------------------------------------------


def test_hidden_files_are_not_shards(tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", [1])
    raw(tmp_path / "._train.bin", [2])
    raw(tmp_path / "b[1].dat", [3])
    assert tokens_of(tmp_path, "train") == [1]
    assert tokens_of(tmp_path, "train", train="b[1].dat") == [3]


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"s\xe9")
    folder.mkdir()
    raw(folder / os.fsdecode(b"train\xe9.bin"), [1, 2])
    raw(folder / os.fsdecode(b"val\xe9.bin"), [3])
    dataset = TokenFiles.model_construct(source=str(folder))
    assert np.concatenate(list(dataset.tokens("train"))).tolist() == [1, 2]
    assert dataset.fingerprint()
    (folder / os.fsdecode(b"val\xe9.bin")).write_bytes(b"a")
    with pytest.raises(KitError, match=r"val\\udce9\.bin: 1 bytes"):
        dataset.tokens("val")


def test_files_may_be_named_by_option(tmp_path: Path) -> None:
    for name, token in {"a.bin": 1, "b1.dat": 2, "b2.dat": 3}.items():
        raw(tmp_path / name, [token])
    options = {"train": "b*.dat", "val": "a.bin"}
    assert tokens_of(tmp_path, "train", **options) == [2, 3]
    assert tokens_of(tmp_path, "val", **options) == [1]


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    raw(tmp_path / "train.bin", [1])
    raw(tmp_path / "interval.bin", [1])
    assert f"dataset.val: {str(tmp_path)!r} has no .bin or .npy files with 'val' in their names" in refusal(
        tmp_path, "val"
    )
    assert f"dataset.val: {str(tmp_path)!r} has no files that match 'v*'" in refusal(tmp_path, "val", val="v*")
    assert "is not a folder" in refusal(tmp_path / "none")
    raw(tmp_path / "train_val.bin", [1])
    message = refusal(tmp_path)
    assert (
        message == f"{tmp_path / 'train_val.bin'}: its name contains train and val; set dataset.train and dataset.val"
    )


def test_asked_for_text_it_says_which_tokenizer_to_name(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r'contains tokens, not text; .* tokenizer\.use = "gpt2"'):
        TokenFiles(source=str(tmp_path)).documents("train")


def test_the_characters_of_a_meta_pkl_are_its_vocabulary(tmp_path: Path) -> None:
    meta(tmp_path, "\n !ab\u2603")
    assert TokenFiles(source=str(tmp_path)).vocabulary() == {"characters": "\n !ab\u2603"}


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


def test_a_meta_pkl_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    meta(tmp_path, "ab", more=Harm())
    with pytest.raises(KitError, match=r"meta\.pkl is not a meta\.pkl of nanoGPT's character-level data: it names"):
        TokenFiles(source=str(tmp_path)).vocabulary()
    assert not Path("harm").exists()


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    def fingerprint(name: str, **options: Any) -> str:
        return TokenFiles(source=str(tmp_path / name), **options).fingerprint()

    for name, train, val in (("a", [1, 2], [3]), ("b", [1, 2], [3]), ("c", [1, 3], [3]), ("d", [3], [1, 2])):
        (tmp_path / name).mkdir()
        raw(tmp_path / name / "train.bin", train)
        raw(tmp_path / name / "val.bin", val)
    assert fingerprint("a") == fingerprint("b")
    found = {fingerprint(name) for name in "acd"} | {fingerprint("a", dtype="uint32")}
    meta(tmp_path / "b", "xyz!")
    assert len(found | {fingerprint("b")}) == 5


class TestShards(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        shard(tmp_path / "a_train_1.bin", [1, 2])
        shard(tmp_path / "a_train_2.bin", [3])
        shard(tmp_path / "a_val.bin", [5], LLAMA3)
        type(self).component = TokenFiles(source=str(tmp_path))


class TestCharacters(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        raw(tmp_path / "train.bin", [1, 0])
        raw(tmp_path / "val.bin", [1])
        meta(tmp_path, "ab")
        type(self).component = TokenFiles(source=str(tmp_path))
