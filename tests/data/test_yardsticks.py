"""Values of a metric are comparable where their yardsticks are equal: the same text, evaluator and evaluation code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from nanogpt_kit.components.tokenizer.byte import ByteEncoder
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset, Document, Encoder
from nanogpt_kit.data import chunks as cutting
from nanogpt_kit.data import pretokenized
from nanogpt_kit.data import yardsticks as measured
from nanogpt_kit.data.chunks import CorpusStats, TextHash, text_chunks
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.writer import TokenWriter
from nanogpt_kit.data.yardsticks import OTHERS, UNDECLARED, compute_yardsticks
from nanogpt_kit.runs.provenance import find_yardstick

LOSS, BITS = "val/loss", "val/bits_per_byte"
LOCAL = """\
from nanogpt_kit.api import Evaluator, Field, PathStr, Sampler


class Hits(Evaluator):
    weight: float = Field(1.0, description="factor of the metric")
    source: PathStr | None = Field(None, description="file that is read")
    sampler: tuple[Sampler, ...] | None = Field(None, description="samplers")

    def metric_names(self):
        return {names}

    def evaluate(self, ctx):
        return {{"val/hits": 1.0}}
"""


def yardsticks(tiny: Path, *overrides: str) -> dict[str, str]:
    experiment = Experiment.load(tiny, overrides, trust_code=True)
    return compute_yardsticks(experiment, prepare(experiment).manifest)


def hits(tiny: Path, options: str = "", source: str = LOCAL, names: str = '("val/hits",)') -> dict[str, str]:
    """The yardsticks with a local evaluator."""
    (tiny.parent / "hits.py").write_text(source.format(names=names), encoding="utf-8")
    return yardsticks(tiny, 'components=["hits.py"]', f'evaluator=["loss", {{use="hits"{options}}}]')


CHANGING = """\
import numpy as np

from nanogpt_kit.api import Encoder, Tokenizer


class ChangingEncoder(Encoder):
    vocab_size, eot_id = 257, 256

    def encode_batch(self, texts):
        return [np.frombuffer(text.{change}().encode(), np.uint8).astype(np.int64) for text in texts]

    def decode_bytes(self, ids):
        return bytes(token for token in ids if token < 256)


class Changing(Tokenizer):
    def build(self, ctx):
        return ChangingEncoder()

    def restore(self, state):
        return ChangingEncoder()
"""


@pytest.mark.parametrize(("change", "is_same"), [("upper", False), ("__str__", True)])
def test_bits_per_byte_of_a_tokenizer_that_changes_the_text_are_those_of_another_text(
    tiny: Path, change: str, is_same: bool
) -> None:
    (tiny.parent / "changing.py").write_text(CHANGING.replace("{change}", change), encoding="utf-8")
    changing = yardsticks(tiny, 'components=["changing.py"]', "tokenizer=changing")
    assert (changing[BITS] == yardsticks(tiny)[BITS]) == is_same


def test_bits_per_byte_have_one_yardstick_for_every_tokenizer_and_the_loss_has_not(tiny: Path) -> None:
    of_bytes, of_characters = yardsticks(tiny), yardsticks(tiny, "tokenizer=char")
    assert of_bytes.keys() == {LOSS, BITS, OTHERS}
    assert of_bytes[BITS] == of_characters[BITS]
    assert of_bytes[LOSS] != of_characters[LOSS]
    assert of_bytes[OTHERS] != of_characters[OTHERS]
    assert len(set(of_bytes.values())) == 3


def test_another_validation_text_is_another_yardstick(tiny: Path, text_file: Path) -> None:
    first = yardsticks(tiny)
    longer = yardsticks(tiny, "dataset.val_fraction=0.2")
    text_file.write_text(text_file.read_text(encoding="utf-8")[:-1] + "!", encoding="utf-8")
    edited = yardsticks(tiny)
    for metric in first:
        assert len({first[metric], longer[metric], edited[metric]}) == 3


def test_the_training_text_and_the_model_are_not_part_of_it(tiny: Path) -> None:
    """Token files with the same validation tokens and fewer for training, decoded to the same text."""
    first = yardsticks(tiny)
    prepared = prepare(Experiment.load(tiny)).path
    (tiny.parent / "tokens").mkdir()
    shutil.copy(prepared / "val.bin", tiny.parent / "tokens")
    (tiny.parent / "tokens" / "train.bin").write_bytes((prepared / "train.bin").read_bytes()[:4000])
    dataset = f'dataset={{use="token_files", source="{tiny.parent / "tokens"}"}}'
    assert yardsticks(tiny, dataset, "model.n_layer=1", "model.block_size=8", "train.seed=5", "name=b") == first


def test_the_same_text_in_another_file_format_is_the_same_text(tiny: Path) -> None:
    def load(name: str, content: str) -> dict[str, str]:
        (tiny.parent / name).write_text(content, encoding="utf-8")
        return yardsticks(tiny, f"dataset.source={tiny.parent / name}")

    documents = [f"document {n} of many" * 9 for n in range(40)]
    lines = load("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in documents))
    rows = load("b.csv", "text\n" + "".join(f"{text}\n" for text in documents))
    others = load("c.csv", "text\n" + "".join(f"{text}!\n" for text in documents))
    assert lines == rows
    assert others[BITS] != rows[BITS]


def test_the_options_of_an_evaluator_are_part_of_it_and_its_name_is_not_that_of_another(tiny: Path) -> None:
    first = hits(tiny)
    assert hits(tiny, ", weight=2.0")["val/hits"] != first["val/hits"]
    assert hits(tiny, ", weight=2.0")[LOSS] == first[LOSS]
    one, two = hits(tiny, ", sampler=['greedy']"), hits(tiny, ", sampler=[{use='top_k', k=3}]")
    assert len({first["val/hits"], one["val/hits"], two["val/hits"]}) == 3
    assert hits(tiny, ", sampler=[{use='top_k', k=4}]")["val/hits"] != two["val/hits"]
    assert yardsticks(tiny)[LOSS] == first[LOSS]


def test_of_a_file_that_an_option_names_the_content_counts(tiny: Path) -> None:
    for name, content in {"a.txt": "one two", "b.txt": "one two", "c.txt": "three"}.items():
        (tiny.parent / name).write_text(content, encoding="utf-8")
    found = [hits(tiny, f", source='{tiny.parent / name}'")["val/hits"] for name in ("a.txt", "b.txt", "c.txt")]
    assert found[0] == found[1] != found[2]
    (tiny.parent / "a.txt").write_text("other", encoding="utf-8")
    assert hits(tiny, f", source='{tiny.parent / 'a.txt'}'")["val/hits"] != found[0]


def test_an_evaluator_with_a_text_of_its_own_is_measured_on_that_alone(tiny: Path) -> None:
    (tiny.parent / "own.txt").write_text("a text of its own\n" * 9, encoding="utf-8")
    (tiny.parent / "own.jsonl").write_text('{"prompt": "one", "choices": ["two", "six"], "answer": 0}\n')
    file, questions = tiny.parent / "own.txt", tiny.parent / "own.jsonl"
    options = f'evaluator=[{{use="perplexity", file="{file}"}}, {{use="multiple_choice", file="{questions}"}}]'
    first = yardsticks(tiny, options)
    other_data = yardsticks(tiny, options, "dataset.val_fraction=0.2")
    assert {key for key in first if first[key] != other_data[key]} == {OTHERS}
    of_characters = yardsticks(tiny, options, "tokenizer=char")
    in_tokens = {"own/loss", "own/perplexity"}
    assert {key for key in first if first[key] != of_characters[key]} == {OTHERS, *in_tokens}
    stride = options.replace('"perplexity"', '"perplexity", stride=3')
    assert {key for key in first if first[key] != yardsticks(tiny, stride)[key]} == {*in_tokens, "own/bits_per_byte"}


def test_an_edited_component_file_is_another_yardstick(tiny: Path) -> None:
    first, edited = hits(tiny), hits(tiny, source=LOCAL.replace("1.0}}", "0.9}}"))
    assert {key for key in first if first[key] != edited[key]} == {"val/hits"}


def test_an_installed_evaluator_that_is_edited_in_place_is_another_yardstick(
    tiny: Path, tmp_path: Path, install: Callable[..., None]
) -> None:
    modules = {"plug/__init__": "", "plug/hits": "from .rule import A\n" + LOCAL.format(names='("val/hits",)')}
    install("plug", "[nanogpt_kit.evaluator]\nhits = plug.hits:Hits\n", **modules, **{"plug/rule": "A = 1\n"})

    def found() -> dict[str, str]:
        return yardsticks(tiny, "evaluator=['loss', 'hits']")

    first = found()
    (tmp_path / "site" / "plug" / "rule.py").write_text("A = 2\n", encoding="utf-8")
    second = found()
    assert {key for key in first if first[key] != second[key]} == {"val/hits"}
    (tmp_path / "site" / "plug" / "attention.py").write_text("B = 2\n", encoding="utf-8")  # no part of the evaluator
    assert found() == second


@pytest.mark.parametrize("name", measured.EVALUATION_CODE)
def test_the_evaluation_code_of_the_kit_is_part_of_it(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = yardsticks(tiny)
    for file in measured.EVALUATION_CODE:
        (tmp_path / "kit" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(measured.KIT / file, tmp_path / "kit" / file)
    monkeypatch.setattr(measured, "KIT", tmp_path / "kit")
    assert yardsticks(tiny) == first
    with (tmp_path / "kit" / name).open("a") as file:
        file.write("# edited\n")
    changed = yardsticks(tiny)
    assert {key for key in first if first[key] != changed[key]} == {LOSS, BITS}


def test_metrics_that_are_not_declared_have_the_yardstick_of_all_such_evaluators(tiny: Path) -> None:
    first = hits(tiny, names="None")
    assert first.keys() == {LOSS, UNDECLARED, OTHERS}
    assert find_yardstick(first, LOSS) == first[LOSS]
    assert find_yardstick(first, "val/hits") == first[UNDECLARED]
    assert hits(tiny, ", weight=2.0", names="None")[UNDECLARED] != first[UNDECLARED]


def test_metrics_that_no_evaluator_makes_have_that_of_the_validation_data(tiny: Path) -> None:
    found = yardsticks(tiny)
    assert find_yardstick(found, "train/loss") == find_yardstick(found, "ema/distance") == found[OTHERS]
    assert find_yardstick({}, LOSS) == ""


def test_a_file_that_cannot_be_read_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.parent / "a.txt"
    path.write_text("text")

    def refuse(path: Path) -> str:
        raise KitError(f"{path}: cannot be read")

    monkeypatch.setattr(measured, "content_hash", refuse)
    with pytest.raises(KitError, match=r"a\.txt: cannot be read"):
        hits(tiny, f", source='{path}'")


# --- the hash of a text -----------------------------------------------------------------------------------------------


class OneSpaceLess(ByteEncoder):
    """Drops a space at the beginning of a text, as some vocabularies do."""

    def decode_bytes(self, ids: object) -> bytes:
        return super().decode_bytes(ids).removeprefix(b" ")  # type: ignore[arg-type]


class Ids(Dataset):
    """The same tokens in both splits, in chunks."""

    ids: tuple[int, ...]
    size: int

    def documents(self, split: str) -> Iterator[Document]:
        raise AssertionError("these are tokens")

    def tokens(self, split: str) -> Iterator[np.ndarray]:
        return (np.array(self.ids[first : first + self.size]) for first in range(0, len(self.ids), self.size))

    def fingerprint(self) -> str:
        return ""


class AllOnDisk:
    """Takes the place of a writer."""

    def skip(self, checksum: int) -> bool:
        return True


def hash_of_tokens(encoder: Encoder, tokens: list[int], size: int) -> str:
    stats = CorpusStats(("train", "val"), False, 100)
    pretokenized.copy_tokens(Ids(ids=tuple(tokens), size=size), encoder, cast(TokenWriter, AllOnDisk()), stats)
    return str(stats.text_hashes["val"].sha256.hexdigest())


@pytest.mark.parametrize("encoder", [ByteEncoder(), OneSpaceLess()])
def test_tokens_have_the_hash_of_their_text_in_chunks_of_any_size(encoder: Encoder) -> None:
    documents = ["one two", "", "three \u2603 four", " five"]
    drops = isinstance(encoder, OneSpaceLess)
    whole = TextHash()
    for text in documents:
        whole.add(text.removeprefix(" ").encode() if drops else text.encode(), is_end=True)
    tokens = [token for text in documents for token in (*text.encode(), 256)]
    for size in (1, 2, 5, 100):
        assert hash_of_tokens(encoder, tokens, size) == whole.sha256.hexdigest()
        assert hash_of_tokens(encoder, [256, *tokens[:-1]], size) == whole.sha256.hexdigest()  # before each document


def test_a_text_has_one_hash_in_chunks_of_any_size_and_the_ends_of_documents_count(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    def hashed(*documents: str) -> str:
        text = tiny.parent / "texts.jsonl"
        text.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents), encoding="utf-8")
        experiment = Experiment.load(tiny, [f"dataset.source={text}", "dataset.val_fraction=0.5"])
        stats = CorpusStats(("train", "val"), False, 100)
        list(text_chunks(experiment.dataset, ByteEncoder(), stats))
        assert stats.text_hashes.keys() == {"val"}
        return str(stats.text_hashes["val"].sha256.hexdigest())

    documents = [f"document {n} \u2603" for n in range(30)]
    first = hashed(*documents)
    assert hashed(*[f"{text}!" for text in documents]) != first
    for size in (3, 40):
        monkeypatch.setattr(cutting, "CHUNK_CHARACTERS", size)
        monkeypatch.setattr(cutting, "PART_CHARACTERS", size)
        assert hashed(*documents) == first
    one, two = TextHash(), TextHash()
    one.add(b"ab", is_end=True)
    two.add(b"a", is_end=True)
    two.add(b"b", is_end=True)
    assert one.sha256.hexdigest() != two.sha256.hexdigest()
