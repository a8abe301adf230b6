"""Documents that count in part: which tokens of the prepared data count, against a loop over their characters."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf

from nanogpt_kit.api import Document, HashSplitDataset, KitError
from nanogpt_kit.components.tokenizer.byte import ByteEncoder
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, MarkedText
from nanogpt_kit.data import chunks as cutting
from nanogpt_kit.data import encode as encoding
from nanogpt_kit.data import worker_pool, writer
from nanogpt_kit.data.counted import CountedTokens
from nanogpt_kit.data.encode import EncodedChunk
from nanogpt_kit.data.prepare import data_root, prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.split import Split
from nanogpt_kit.data.unfinished_file import StalePreparation
from nanogpt_kit.data.writer import TokenWriter
from nanogpt_kit.data.yardsticks import compute_yardsticks

# Yields what a JSON file holds: {"train": [text, or [text, spans]], "val": [...]}.
MARKED = """
import json
from pathlib import Path
from nanogpt_kit.api import Dataset, MarkedText, PathStr, content_hash

class Marked(Dataset):
    source: PathStr

    def documents(self, split):
        for document in json.loads(Path(self.source).read_text(encoding="utf-8"))[split]:
            yield document if isinstance(document, str) else MarkedText(*document)

    def fingerprint(self):
        return content_hash(self.source)
"""

Marks = str | tuple[str, list[tuple[int, int]]]  # a document: plain, or with the spans that count

# Plain and marked ones; spans at the beginning, at the end, within words and characters of several bytes; none.
TRAIN: list[Marks] = [
    "A plain document before any that is marked.",
    ("user: 2 + 2?\nassistant: four\n", [(23, 29)]),
    ("Caf\u00e9 \u2603\U0001f600 stra\u00dfe, and more of it", [(3, 6), (6, 7), (9, 11), (20, 30)]),
    "",
    "A plain one after it, \u2603.",
    ("Nothing of this counts.", []),
    ("All of this counts.", [(0, 19)]),
    ("The answer is empty:", [(20, 20)]),
    ("  spaces  at   both ends  ", [(0, 1), (8, 9), (25, 26)]),
]
VAL: list[Marks] = [("user: who?\nassistant: it is me\n", [(21, 31)]), ("x" * 30, [(7, 19)])]


def experiment(
    tiny: Path, *overrides: str, train: list[Marks] | None = None, val: list[Marks] | None = None
) -> Experiment:
    (tiny.parent / "marked.py").write_text(MARKED, encoding="utf-8")
    source = tiny.parent / "marked.json"
    documents = {"train": TRAIN if train is None else train, "val": VAL if val is None else val}
    source.write_text(json.dumps(documents), encoding="utf-8")
    dataset = ["components=['marked.py']", "dataset.use=marked", f"dataset.source={source}", "model.block_size=8"]
    return Experiment.load(tiny, [*dataset, *overrides])


def counted(split: Split) -> list[bool]:
    return split.counts(np.arange(len(split.tokens))).tolist()


def files(prepared: PreparedData) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.path.iterdir()}


def refused(experiment: Experiment) -> str:
    with pytest.raises(KitError) as caught:
        prepare(experiment)
    assert not data_root().exists()
    return str(caught.value)


def expected(documents: list[Marks], encoder: Encoder) -> list[bool]:
    """For tokens that have the bytes of their text in turn: a token counts where one of its bytes is of a span."""
    flags = []
    for document in documents:
        text, spans = (document, [(0, len(document))]) if isinstance(document, str) else document
        if not text:
            continue
        of_bytes = [any(a <= at < b for a, b in spans) for at, letter in enumerate(text) for _ in letter.encode()]
        (ids,) = encoder.encode_batch([text])
        at = 0
        for token in ids.tolist():
            size = len(encoder.decode_bytes([token]))
            flags.append(any(of_bytes[at : at + size]))
            at += size
        assert at == len(of_bytes)
        if encoder.eot_id is not None:
            flags.append(bool(spans) and spans[-1][1] == len(text))
    return flags


def byte_level(folder: Path) -> str:
    """A tokenizer.json whose post-processor leaves spaces out of what tokens stand for, as GPT-2's does."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.post_processor = hf.processors.ByteLevel(trim_offsets=True)
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator([str(document) for document in TRAIN], trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return f'tokenizer={{use="huggingface", file="{path}"}}'


@pytest.fixture(params=["byte", "char", "bpe", "gpt2", "byte_level"])
def tokenizer(request: pytest.FixtureRequest, gpt2_vocabulary: None, tmp_path: Path) -> str:
    if request.param == "byte_level":
        return byte_level(tmp_path)
    return 'tokenizer={use="bpe", vocab_size=290}' if request.param == "bpe" else f"tokenizer={request.param}"


# --- what counts ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*tiktoken.*")
def test_a_token_counts_where_any_of_its_text_is_in_a_span(tiny: Path, tokenizer: str) -> None:
    prepared = prepare(experiment(tiny, tokenizer))
    for name, documents in (("train", TRAIN), ("val", VAL)):
        split, flags = prepared.split(name), expected(documents, prepared.encoder)
        assert counted(split) == flags
        assert 0 < sum(flags) < len(flags)
        record = prepared.splits[name].counted
        assert record is not None
        assert record.tokens == sum(flags)


def test_the_end_of_text_counts_where_the_last_span_reaches_the_end(tiny: Path) -> None:
    texts: list[Marks] = [("abc", [(1, 3)]), ("abc", [(1, 2)]), ("abc", [(0, 1), (3, 3)]), ("abc", []), "abc"]
    split = prepare(experiment(tiny, "tokenizer=byte", train=[*texts, "x" * 9])).split("train")
    assert np.array(counted(split)[:20]).reshape(5, 4).astype(int).tolist() == [
        [0, 1, 1, 1],
        [0, 1, 0, 0],
        [1, 0, 0, 1],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
    ]


def test_a_token_across_the_edge_of_a_span_counts(tiny: Path) -> None:
    """BPE joins the space that ends the question to the word that begins the answer."""
    text = "answer answer answer: forty forty forty"
    train: list[Marks] = [(text, [(28, 39)]), "answer " * 9]  # from the second "forty" on, without the space before it
    prepared = prepare(experiment(tiny, 'tokenizer={use="bpe", vocab_size=290}', train=train, val=["x" * 50]))
    ids = prepared.tokens("train").tolist()
    kept = [token for token, counts in zip(ids, counted(prepared.split("train")), strict=True) if counts]
    assert prepared.encoder.decode(kept).startswith(" forty fortyanswer")


def test_bytes_are_those_of_the_characters_of_counted_tokens(tiny: Path, tokenizer: str) -> None:
    prepared = prepare(experiment(tiny, tokenizer))
    for name in ("train", "val"):
        flags, ids, record = counted(prepared.split(name)), prepared.tokens(name).tolist(), prepared.splits[name]
        kept = [token for token, counts in zip(ids, flags, strict=True) if counts]
        assert record.counted is not None
        # A token of some bytes of a character stands for the whole of it
        extra = record.counted.bytes - sum(len(prepared.encoder.decode_bytes([token])) for token in kept)
        assert 0 <= extra <= (0 if name == "val" or tokenizer.endswith("char") else 6)


@pytest.mark.parametrize("kind", ["word_piece", "metaspace"])
def test_tokens_that_stand_for_other_text_than_their_own_count_by_where_the_library_found_them(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    """Lower case, without accents, or with a sign in place of a space."""
    text = "User: H\u00e9llo  WORLD\nBot: YES, hello world"
    if kind == "word_piece":
        tokenizer = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = (
            hf.normalizers.BertNormalizer(),
            hf.pre_tokenizers.BertPreTokenizer(),
        )
        trainer: Any = hf.trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[SEP]"])
    else:
        tokenizer = hf.Tokenizer(hf.models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = hf.pre_tokenizers.Metaspace(), hf.decoders.Metaspace()
        trainer = hf.trainers.UnigramTrainer(vocab_size=40, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator([text] * 3, trainer)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    train: list[Marks] = [(text, [(6, 18)])]
    chosen = f'tokenizer={{use="huggingface", file="{path}"}}'
    prepared = prepare(
        experiment(
            tiny,
            chosen,
            train=train,
            val=[text],
        )
    )
    ids = prepared.tokens("train").tolist()
    kept = [token for token, counts in zip(ids, counted(prepared.split("train")), strict=True) if counts]
    words = "".join(tokenizer.id_to_token(token) for token in kept).replace("##", "")
    assert words == {"word_piece": "helloworld", "metaspace": "H\u00e9llo\u2581\u2581WORLD"}[kind]


def test_characters_that_are_skipped_move_no_span(tiny: Path) -> None:
    texts: list[Marks] = [("abcabc" * 5, [(0, 30)])]
    known = prepare(experiment(tiny, "tokenizer=char", train=texts, val=["abc" * 9])).encoder
    text = "a\u2603b\u2603\u2603c"
    skipping = type(known)(known.state()["characters"], skip=True)
    (ids,) = skipping.encode_batch([text])
    assert [text[a:b] for a, b in skipping.token_spans(text, ids)] == ["a", "b", "c"]


# --- only where something is marked -----------------------------------------------------------------------------


def test_without_marks_there_is_no_file_and_no_word_of_it(tiny: Path) -> None:
    plain = prepare(experiment(tiny, "tokenizer=byte", train=["plain text " * 9], val=["more of it " * 9]))
    assert sorted(files(plain)) == ["manifest.json", "train.bin", "train.documents.bin", "val.bin", "val.documents.bin"]
    assert "counted" not in (plain.path / "manifest.json").read_text(encoding="utf-8")
    assert plain.split("train").counted is None
    assert all(counted(plain.split("train")))


def test_a_marked_split_has_no_reference_of_compressors_since_those_read_all_of_its_text(tiny: Path) -> None:
    assert prepare(experiment(tiny, "tokenizer=byte")).references == {}
    assert prepare(experiment(tiny, "tokenizer=byte", val=["more of it " * 9])).references != {}


def test_a_split_without_marks_beside_one_with_them_counts_wholly(tiny: Path) -> None:
    prepared = prepare(experiment(tiny, "tokenizer=byte", val=["plain text " * 9]))
    assert sorted(files(prepared)) == [
        "manifest.json", "train.bin", "train.counted.bin", "train.documents.bin", "val.bin", "val.documents.bin",
    ]  # fmt: skip
    assert all(counted(prepared.split("val")))


def test_marks_change_no_token(tiny: Path) -> None:
    def plain(documents: list[Marks]) -> list[Marks]:
        return [document if isinstance(document, str) else document[0] for document in documents]

    marked = prepare(experiment(tiny, "tokenizer=byte"))
    unmarked = prepare(experiment(tiny, "tokenizer=byte", train=plain(TRAIN), val=plain(VAL)))
    assert marked.path != unmarked.path
    for name in ("train.bin", "val.bin", "train.documents.bin", "val.documents.bin"):
        assert files(marked)[name] == files(unmarked)[name]


# --- chunks, processes, kills, damage ---------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "part"), [(20, 1 << 19), (7, 1 << 19), (20, 8), (3, 4)])
def test_marks_do_not_depend_on_how_much_is_tokenized_at_once(
    tiny: Path, tokenizer: str, chunk: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = experiment(tiny, tokenizer)
    whole = prepare(chosen)
    flags = {name: counted(whole.split(name)) for name in ("train", "val")}
    shutil.rmtree(data_root())
    monkeypatch.setattr(cutting, "CHUNK_CHARACTERS", chunk)
    monkeypatch.setattr(cutting, "PART_CHARACTERS", part)
    again = prepare(chosen)
    for name in ("train", "val"):
        np.testing.assert_array_equal(again.tokens(name), whole.tokens(name))
        assert counted(again.split(name)) == flags[name]
        one, other = whole.splits[name], again.splits[name]
        assert one.text_sha256 == other.text_sha256
        assert one.counted is not None
        assert other.counted is not None
        assert (one.counted.tokens, one.counted.bytes) == (other.counted.tokens, other.counted.bytes)


def test_processes_mark_what_one_process_marks(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = experiment(tiny, 'tokenizer={use="bpe", vocab_size=290}', train=TRAIN * 40)
    one = files(prepare(chosen, workers=1))
    shutil.rmtree(data_root())
    monkeypatch.setattr(encoding, "MIN_BYTES_FOR_PROCESSES", 0)
    monkeypatch.setattr(worker_pool.WorkerPool, "is_ready", lambda self: True)
    assert files(prepare(chosen, workers=2)) == one


def chunk_of(size: int, *edges: int, marked: bool = True) -> EncodedChunk:
    ids, starts = np.full(size, 7, np.uint16), np.array([0], np.int64)
    counted = CountedTokens(np.array(edges, np.int64), text_bytes=sum(edges[1::2]) - sum(edges[::2]))
    return EncodedChunk(ids, starts, text_bytes=size, unknown=0, counted=counted if marked else None)


CHUNKS = [
    *(chunk_of(size, marked=False) for size in (3, 5)),
    chunk_of(6, 1, 3, 4, 6),
    chunk_of(4),
    chunk_of(5, marked=False),
    *(chunk_of(6, 0, 2) for _ in range(9)),
]


def test_a_writer_continues_marks_after_the_last_whole_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    with TokenWriter(tmp_path / "whole", ("train",), "") as whole:
        for chunk in CHUNKS:
            whole.add("train", chunk)
        record = whole.finish()["train"].counted
    assert record is not None
    edges = [0, 8, 9, 11, 12, 14, 18, 23, *(edge for at in range(23, 77, 6) for edge in (at, at + 2))]
    raw = (tmp_path / "whole" / "train.counted.bin").read_bytes()
    assert np.frombuffer(raw, "<i8").tolist() == edges
    assert record.model_dump() == {
        "tokens": 8 + 4 + 5 + 18, "bytes": 35, "edges": len(edges), "sha256": hashlib.sha256(raw).hexdigest(),
    }  # fmt: skip
    (tmp_path / "broken").mkdir()
    monkeypatch.setattr(writer, "SHARD_BYTES", 1)
    for at in range(0, len(CHUNKS), 2):  # killed after each other chunk, before and after the first mark
        with TokenWriter(tmp_path / "broken", ("train",), "") as broken:
            assert broken.chunks_on_disk == at
            assert all(broken.skip(checksum=0) for _ in range(at))
            for chunk in CHUNKS[at : at + 2]:
                broken.add("train", chunk)
            found = broken.finish()["train"].counted
        with (tmp_path / "broken" / "train.counted.bin").open("ab") as file:
            file.write(b"half of a shard")
    assert found == record
    assert (tmp_path / "broken" / "train.counted.bin").read_bytes() == raw + b"half of a shard"


def test_damaged_marks_of_an_unfinished_preparation_are_not_continued(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, ("train",), "") as unfinished:
        for chunk in CHUNKS:
            unfinished.add("train", chunk)
        unfinished.finish()
    path = tmp_path / "train.counted.bin"
    flip_a_bit(path)
    with pytest.raises(StalePreparation, match="its tokens of train have changed"):
        TokenWriter(tmp_path, ("train",), "")
    os.truncate(path, 8)
    with pytest.raises(StalePreparation, match=r"train\.counted\.bin has lost bytes"):
        TokenWriter(tmp_path, ("train",), "")


def test_an_unfinished_preparation_of_other_marks_is_not_continued(tiny: Path) -> None:
    """The text is the same, and its checksum is not."""

    def checksum(*documents: Marks) -> int:
        chosen = experiment(tiny, "tokenizer=byte", train=list(documents))
        stats = cutting.CorpusStats(("train", "val"), True, 0)
        list(cutting.text_chunks(chosen.dataset, ByteEncoder(), stats))
        return stats.checksum

    one, same, other = (checksum(("abc", spans)) for spans in ([(0, 1)], [(0, 1)], [(0, 2)]))
    assert one == same
    assert len({one, other, checksum("abc")}) == 3


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_damaged_file_is_refused_with_its_remedy(tiny: Path) -> None:
    chosen = experiment(tiny, "tokenizer=byte")
    path = prepare(chosen).path / "train.counted.bin"
    whole = path.read_bytes()
    flip_a_bit(path)
    with pytest.raises(KitError, match=rf"{path} is not what was written: .*; remove {path.parent} to prepare"):
        prepare(chosen)
    path.write_bytes(whole[:-8])
    with pytest.raises(KitError, match=rf"{path} has {len(whole) - 8} bytes instead of {len(whole)}"):
        prepare(chosen)
    path.unlink()
    with pytest.raises(KitError, match=rf"{path} is missing"):
        prepare(chosen)


def test_edges_that_no_writer_writes_are_refused_although_their_hash_is_right(tiny: Path) -> None:
    data = prepare(experiment(tiny, "tokenizer=byte"))
    (file,) = [file for file in data.files if file.path.name == "train.counted.bin"]
    for edges, fault in (([4, 2], "ascending"), ([0, data.splits["train"].tokens + 1], "only numbers below")):
        raw = np.array(edges, "<i8").tobytes()
        file.path.write_bytes(raw)
        found = replace(file, count=2, sha256=hashlib.sha256(raw).hexdigest()).find_damage()
        assert fault in (found or "")


# --- what is refused, and what is reported ----------------------------------------------------------------------


def test_a_split_of_which_nothing_counts_is_refused(tiny: Path) -> None:
    nothing: list[Marks] = [("nothing of this counts", [])]
    assert "no token of train counts" in refused(experiment(tiny, train=nothing))
    assert "no token of train and val counts" in refused(experiment(tiny, train=nothing, val=nothing))
    assert "no token of val counts" in refused(experiment(tiny, val=[("the first token is no target", [(0, 1)])]))


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([(4, 2)], "(4, 2) follows character 0"),
        ([(0, 5), (4, 6)], "(4, 6) follows character 5"),
        ([(0, 99)], "within its 20 characters; (0, 99)"),
        ([(-1, 3)], "(-1, 3) follows character 0"),
        ([(1, 2, 3)], "should be pairs of characters (first, end), got [[1, 2, 3]]"),
        ([("a", "b")], "should be pairs of characters"),
        ([(0.0, 2.0)], "should be pairs of characters"),
    ],
)
def test_wrong_spans_are_refused_with_their_document(tiny: Path, spans: Any, reason: str) -> None:
    message = refused(experiment(tiny, train=["plain text", ("the one that is wrong"[:20], spans)]))
    assert reason in message
    assert "the document that begins with 'the one that is wron'" in message


LOSSY = """
import numpy as np
from nanogpt_kit.api import Encoder, Tokenizer

class Lossy(Tokenizer):
    def build(self, ctx):
        return LossyEncoder()

    def restore(self, state):
        return LossyEncoder()

class LossyEncoder(Encoder):
    vocab_size, eot_id = 256, None

    def encode_batch(self, texts):
        return [np.frombuffer(text.lower().encode(), dtype=np.uint8) for text in texts]

    def decode_bytes(self, ids):
        return bytes(ids)
"""


def test_a_tokenizer_that_changes_text_must_say_what_its_tokens_stand_for(tiny: Path) -> None:
    (tiny.parent / "lossy.py").write_text(LOSSY, encoding="utf-8")
    local = ["components=['marked.py', 'lossy.py']", "tokenizer=lossy"]
    train: list[Marks] = ["Plain.", ("is lower case", [(0, 3)]), ("Is Not", [(0, 3)])]
    message = refused(experiment(tiny, *local, train=train, val=["x" * 30]))
    assert "tokenizer.use: document 2 of train: the tokenizer changes text" in message
    assert "override Encoder.token_spans" in message
    spans = "    def token_spans(self, text, ids):\n        return np.array([[n, n + 1] for n in range({})])\n"
    (tiny.parent / "lossy.py").write_text(LOSSY + spans.format("len(ids)"), encoding="utf-8")
    assert counted(prepare(experiment(tiny, *local, train=train, val=["x" * 30])).split("train"))[6:13] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip
    shutil.rmtree(data_root())
    (tiny.parent / "lossy.py").write_text(LOSSY + spans.format("3"), encoding="utf-8")
    message = refused(experiment(tiny, *local, train=train, val=["x" * 30]))
    assert (
        "document 1 of train: LossyEncoder.token_spans returned (3, 2), expected (13, 2) numbers from 0 to 13"
        in message
    )


def test_prepare_says_how_many_tokens_count(tiny: Path, command: Any, caplog: pytest.LogCaptureFixture) -> None:
    experiment(tiny, "tokenizer=byte")
    options = ["components=['marked.py']", "dataset.use=marked", f"dataset.source={tiny.parent / 'marked.json'}"]
    answer = command("prepare", tiny, *options, "model.block_size=8", "--stats", "--json", "--verify")
    assert answer.code == 0, answer.err
    counts = {name: split["counted"]["tokens"] for name, split in json.loads(answer.out)["splits"].items()}
    (row,) = [line.split() for line in answer.err.splitlines() if line.startswith("tokens that count")]
    assert row[-2:] == [str(counts["train"]), str(counts["val"])]
    assert "train.counted.bin       as recorded" in answer.err


# --- splits and duplicates --------------------------------------------------------------------------------------


def test_a_single_marked_document_is_split_with_its_marks(tiny: Path) -> None:
    text, spans = "question " * 30 + "answer " * 30, [(270, 480)]
    dataset = Single(text, spans)
    train, val = ([document] for split in ("train", "val") for document in dataset.documents(split))
    assert isinstance(train[0], MarkedText)
    assert isinstance(val[0], MarkedText)
    assert (train[0].text + val[0].text, len(train[0].text)) == (text, 432)
    assert (train[0].counted, val[0].counted) == (((270, 432),), ((0, 48),))


def test_equal_text_with_other_marks_is_in_one_split() -> None:
    """So that no text that is measured was trained on; both documents are kept."""
    documents = [MarkedText(f"text {n}", ((0, n % 3),)) for n in range(50)] * 2
    documents += [MarkedText(document.text, ((0, 4),)) for document in documents[:50]]
    dataset = Several(documents)
    found = {split: list(dataset.documents(split)) for split in dataset.splits}
    assert sum(map(len, found.values())) == 150
    texts = [{document.text for document in some if isinstance(document, MarkedText)} for some in found.values()]
    assert not texts[0] & texts[1]


class Several(HashSplitDataset):
    def __init__(self, documents: list[MarkedText]) -> None:
        super().__init__()
        object.__setattr__(self, "_documents", documents)

    def all_documents(self) -> Iterator[Document]:
        return iter(self._documents)  # type: ignore[attr-defined, no-any-return]

    def fingerprint(self) -> str:
        return "several"


def Single(text: str, spans: list[tuple[int, int]]) -> Several:
    return Several([MarkedText(text, tuple(spans))])


# --- mixtures ---------------------------------------------------------------------------------------------------


def test_a_part_of_a_mixture_counts_as_it_does_alone(tiny: Path) -> None:
    """A marked part after a plain one, and before another marked one."""
    parts = []
    for name, n in (("plain", 0), ("asked", 3), ("other", 5)):
        chosen = experiment(tiny, "tokenizer=byte", train=spread(n, 40), val=spread(n + 1 if n else 0, 30))
        source = tiny.parent / f"{name}.json"
        shutil.copy(tiny.parent / "marked.json", source)
        parts.append({"name": name, "dataset": {"use": "marked", "source": str(source)}})
    mixed = chosen.with_(dataset={"use": "mixture", "part": parts}, evaluator=["loss", "bits_per_byte"])
    data = prepare(mixed)
    alone = [prepare(mixed.with_(dataset=part["dataset"])) for part in parts]
    for split in ("train", "val"):
        whole, marks = data.split(split), []
        for source, own in zip(whole.sources, alone, strict=True):
            of_source, of_own = whole.of_source(source), own.split(split)
            assert counted(of_source) == counted(of_own)
            starts = np.arange(0, len(of_own.tokens), 7)
            assert of_source.count_targets(starts, 9).tolist() == of_own.count_targets(starts, 9).tolist()
            marks += counted(of_own)
        assert counted(whole) == marks
        for record, own in zip(data.splits[split].sources, alone, strict=True):
            assert record.measured_bytes == own.splits[split].measured_bytes
            assert record.counted_tokens == sum(counted(own.split(split)))
        assert data.splits[split].measured_bytes == sum(own.splits[split].measured_bytes for own in alone)
    yardsticks = compute_yardsticks(mixed, data.manifest)
    fewer = mixed.with_(dataset={"use": "mixture", "part": parts[:2]})
    unlike = compute_yardsticks(fewer, prepare(fewer).manifest)
    assert yardsticks["val/loss/asked"] == unlike["val/loss/asked"]
    assert yardsticks["val/loss"] != unlike["val/loss"]


def spread(n: int, count: int) -> list[Marks]:
    """Documents of which every `n`-th character counts, or plain ones for 0."""
    texts = [f"{count} {number} some text " * 2 for number in range(count)]
    if not n:
        return list(texts)
    return [(text, [(at, at + 1) for at in range(0, len(text), n)]) for text in texts]


def test_a_part_of_which_nothing_counts_is_named(tiny: Path) -> None:
    parts = []
    for name, val in (("good", VAL), ("bad", [("nothing of this counts", [])])):
        chosen = experiment(tiny, "tokenizer=byte", val=val)  # type: ignore[arg-type]
        source = tiny.parent / f"{name}.json"
        shutil.copy(tiny.parent / "marked.json", source)
        parts.append({"name": name, "dataset": {"use": "marked", "source": str(source)}})
    assert "no token of bad in val counts" in refused(chosen.with_(dataset={"use": "mixture", "part": parts}))


def test_marks_are_part_of_a_yardstick(tiny: Path) -> None:
    def yardsticks(*spans: tuple[int, int]) -> dict[str, str]:
        chosen = experiment(tiny, "tokenizer=byte", val=[("x" * 30, list(spans))])
        return compute_yardsticks(chosen, prepare(chosen).manifest)

    one, same, other = yardsticks((3, 9)), yardsticks((3, 9)), yardsticks((3, 10))
    assert one == same
    for metric in ("val/loss", "val/bits_per_byte", ""):
        assert one[metric] != other[metric]
