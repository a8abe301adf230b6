"""Perplexity of a file: against one window for each token, and against transformers' recipe."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.api import KitError, ModelContext, RunContext
from nanogpt_kit.components.evaluator import perplexity
from nanogpt_kit.components.evaluator.perplexity import Perplexity
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.tokenizer.byte import ByteEncoder
from nanogpt_kit.components.tokenizer.char import CharEncoder
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.importing import import_run
from nanogpt_kit.nn.parameter_shapes import parameter_shapes

BLOCK = 8
EOT = ByteEncoder.eot_id
TEXT = "\u2603 Snow fell on 31 roofs.\n"  # 27 bytes, the first character three of them


def random_model(block_size: int = BLOCK, vocab_size: int = 257, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=2, n_head=2, n_embd=12, block_size=block_size, **options)
    network = model.build(ModelContext(vocab_size=vocab_size))
    GPT2(std=0.5).apply(network, parameter_shapes(network))
    return network.eval()


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def one_by_one(model: nn.Module, ids: list[int], block_size: int, stride: int) -> float:
    """Nats, token for token, each with a pass of its own over what its window has before it."""
    nats = 0.0
    for i in range(1, len(ids)):
        start = 0 if i <= block_size else math.ceil((i - block_size) / stride) * stride
        assert min(i, block_size - stride) <= i - start <= block_size, "the oracle itself gives enough context"
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:i]]))[0, -1]
        nats -= logits.double().log_softmax(-1)[ids[i]].item()
    return nats


@torch.no_grad()
def measured(ctx: Any, **options: Any) -> dict[str, float]:
    evaluator = Perplexity(**options)
    found = evaluator.evaluate(ctx)
    assert evaluator.metric_names() == tuple(found)
    return found


@pytest.mark.parametrize("stride", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("length", [2, 8, 9, 10, 13, 25])
def test_each_token_is_foretold_once_from_what_its_window_has_before_it(
    tmp_path: Path, standing: Any, stride: int, length: int
) -> None:
    model = random_model()
    text = "Snow fell on 31 roofs now"[:length]
    found = measured(standing(model, BLOCK), file=written(tmp_path / "t.txt", text), stride=stride)
    expected = one_by_one(model, list(text.encode()), BLOCK, stride) / (length - 1)
    assert found["t/loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("options", [{"position": "rope", "norm": "rmsnorm"}, {"position": "alibi"}], ids=str)
def test_windows_are_those_of_any_position(tmp_path: Path, standing: Any, options: dict[str, Any]) -> None:
    model = random_model(**options)
    found = measured(standing(model, BLOCK), file=written(tmp_path / "t.txt", TEXT), stride=3)
    assert found["t/loss"] == pytest.approx(one_by_one(model, list(TEXT.encode()), BLOCK, 3) / 26, abs=1e-5)


def test_a_stride_left_out_is_half_of_the_context(tmp_path: Path, standing: Any) -> None:
    ctx, file = standing(random_model(), BLOCK), written(tmp_path / "t.txt", TEXT)
    assert measured(ctx, file=file) == measured(ctx, file=file, stride=4) != measured(ctx, file=file, stride=5)


def test_the_model_computes_in_the_precision_it_is_told(tmp_path: Path, standing: Any) -> None:
    model, file = random_model(), written(tmp_path / "t.txt", TEXT)
    kinds: set[torch.dtype] = set()
    model.h[0].mlp.register_forward_hook(lambda module, args, out: kinds.add(out.dtype))
    exact = measured(standing(model, BLOCK), file=file)["t/loss"]
    assert kinds == {torch.float32}
    rounded = measured(standing(model, BLOCK, precision=torch.bfloat16), file=file)["t/loss"]
    assert torch.bfloat16 in kinds
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_changes_nothing(tmp_path: Path, standing: Any, batch_size: int) -> None:
    model, file = random_model(), written(tmp_path / "t.txt", TEXT)
    expected = one_by_one(model, list(TEXT.encode()), BLOCK, 2) / 26
    found = measured(standing(model, BLOCK, batch_size), file=file, stride=2)
    assert found["t/loss"] == pytest.approx(expected, abs=1e-5)


def test_the_three_metrics_are_one_number_in_three_units(tmp_path: Path, standing: Any) -> None:
    found = measured(standing(random_model(), BLOCK), file=written(tmp_path / "t.txt", TEXT), name="snow")
    assert list(found) == ["snow/loss", "snow/perplexity", "snow/bits_per_byte"]
    assert found["snow/perplexity"] == pytest.approx(math.exp(found["snow/loss"]))
    assert found["snow/bits_per_byte"] == pytest.approx(found["snow/loss"] / math.log(2)), "a byte is a token here"


def test_bytes_are_those_of_all_characters_but_the_first(tmp_path: Path, standing: Any) -> None:
    encoder = CharEncoder("".join(sorted(set(TEXT))), skip=False)
    model = random_model(vocab_size=encoder.vocab_size)
    file = written(tmp_path / "t.txt", TEXT)
    found = measured(standing(model, BLOCK, encoder=encoder), file=file)
    tokens, text_bytes = len(TEXT) - 1, len(TEXT.encode()) - 3
    assert tokens == text_bytes
    assert found["t/bits_per_byte"] == pytest.approx(found["t/loss"] * tokens / math.log(2) / text_bytes)
    found = measured(standing(model, BLOCK, encoder=encoder), file=written(tmp_path / "t.txt", TEXT[::-1]))
    assert found["t/bits_per_byte"] == pytest.approx(found["t/loss"] * tokens / math.log(2) / (text_bytes + 2))


def test_documents_are_joined_by_the_end_of_text_as_in_training(tmp_path: Path, standing: Any) -> None:
    model, file = random_model(), tmp_path / "many.jsonl.gz"
    lines = (json.dumps({"text": text}) + "\n" for text in ["one", "", "two more", "three"])
    file.write_bytes(gzip.compress("".join(lines).encode()))
    ids = [*b"one", EOT, *b"two more", EOT, *b"three"]
    found = measured(standing(model, BLOCK), file=str(file), stride=5)
    nats = one_by_one(model, ids, BLOCK, 5)
    assert found["many/loss"] == pytest.approx(nats / (len(ids) - 1), abs=1e-5)
    assert found["many/bits_per_byte"] == pytest.approx(nats / math.log(2) / (3 + 8 + 5 - 1), abs=1e-5)
    encoder = CharEncoder("".join(sorted(set("one two more three"))), skip=False)
    model = random_model(vocab_size=encoder.vocab_size)
    found = measured(standing(model, BLOCK, encoder=encoder), file=str(file), stride=5)
    ids = encoder.encode_batch(["onetwo morethree"])[0].tolist()
    assert found["many/loss"] == pytest.approx(one_by_one(model, ids, BLOCK, 5) / (len(ids) - 1), abs=1e-5)


class SpacesOnly(ByteEncoder):
    """May be cut behind its last space only, and is asked for a text it can tell."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def last_safe_cut(self, text: str) -> int:
        return text.rfind(" ") + 1

    def encode_batch(self, texts: Any) -> Any:
        self.encoded += texts
        return super().encode_batch(texts)


@pytest.mark.parametrize("size", [1, 10, 60])
def test_a_long_document_is_encoded_in_pieces_where_the_encoder_allows(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(perplexity, "CHUNK_CHARACTERS", 5)
    text = f"{TEXT}{'x' * 40}{TEXT}"
    document = [text[at : at + size] for at in range(0, len(text), size)]
    pieces = list(perplexity.chunks_to_encode(document, SpacesOnly()))
    assert "".join(pieces) == text
    assert len(pieces) > 2
    assert all(piece.endswith(" ") for piece in pieces[:-1])
    assert list(perplexity.chunks_to_encode(["", ""], SpacesOnly())) == []


def test_a_document_that_cannot_be_cut_is_looked_at_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "CHUNK_CHARACTERS", 5)
    looked: list[str] = []
    encoder = ByteEncoder()
    monkeypatch.setattr(encoder, "last_safe_cut", lambda text: looked.append(text) or 0)
    assert list(perplexity.chunks_to_encode(["x"] * 1000, encoder)) == ["x" * 1000]
    assert [len(text) for text in looked] == [5, 10, 20, 40, 80, 160, 320, 640]


def test_a_file_beyond_one_piece_gives_the_loss_of_the_whole(
    tmp_path: Path, standing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = random_model(), written(tmp_path / "t.txt", TEXT)
    expected = measured(standing(model, BLOCK), file=file)
    monkeypatch.setattr(perplexity, "CHUNK_CHARACTERS", 5)
    encoder = SpacesOnly()
    assert measured(standing(model, BLOCK, encoder=encoder), file=file) == expected
    assert "".join(encoder.encoded) == TEXT


@torch.no_grad()
def test_the_number_is_that_of_the_recipe_of_transformers(tmp_path: Path, standing: Any) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 17, "vocab_size": 257}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=None, eos_token_id=None, **sizes)).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path / "hf")
    import_run(str(tmp_path / "hf"), "mine", ["tokenizer.use=byte"])
    ours = load_run("mine").model
    ours.crop(16)  # their window counts its targets, ours its inputs

    text = TEXT * 4
    ids, stride, max_length = torch.tensor([list(text.encode())]), 6, 17
    nats, tokens, previous = 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):  # huggingface.co/docs/transformers/perplexity
        end = min(begin + max_length, ids.size(1))
        window = ids[:, begin:end]
        targets = window.clone()
        targets[:, : -(end - previous)] = -100
        count = (targets != -100).sum().item() - (1 if begin == 0 else 0)  # labels are shifted inside
        nats += theirs(window, labels=targets).loss.item() * count
        tokens, previous = tokens + count, end
        if end == ids.size(1):
            break
    assert tokens == ids.size(1) - 1
    found = measured(standing(ours, 16), file=written(tmp_path / "t.txt", text), stride=stride)
    assert found["t/loss"] == pytest.approx(nats / tokens, abs=1e-5)


RUN = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=BLOCK)


def test_what_cannot_work_is_refused_before_training(tmp_path: Path) -> None:
    file = written(tmp_path / "t.txt", TEXT)
    assert Perplexity(file=file).refusal_reason(RUN) is None
    assert Perplexity(file=file, stride=8).refusal_reason(RUN) is None
    assert "no file 'nowhere.txt'" in str(Perplexity(file="nowhere.txt").refusal_reason(RUN))
    assert "no file" in str(Perplexity(file=str(tmp_path)).refusal_reason(RUN))
    reason = str(Perplexity(file=file, stride=9).refusal_reason(RUN))
    assert all(part in reason for part in ("stride of 9", "block_size", " is 8"))
    named = Perplexity(file=written(tmp_path / "val.txt", TEXT))
    assert "val/loss" in str(named.refusal_reason(RUN))
    assert named.model_copy(update={"name": "mine"}).refusal_reason(RUN) is None


def test_without_that_question_the_faults_are_told_all_the_same(tmp_path: Path, standing: Any) -> None:
    ctx = standing(random_model(), BLOCK)
    with pytest.raises(KitError, match=r"t\.txt: a stride of 9 .* block_size of the model is 8"):
        measured(ctx, file=written(tmp_path / "t.txt", TEXT), stride=9)
    with pytest.raises(KitError, match=r"nowhere\.txt: cannot be read: No such file"):
        measured(ctx, file="nowhere.txt")
    for text in ["", "x"]:
        with pytest.raises(KitError, match=rf"t\.txt: expected at least two tokens, got {len(text)}"):
            measured(ctx, file=written(tmp_path / "t.txt", text))
    with pytest.raises(KitError, match=r"t\.txt: not in the vocabulary of 2 characters: ' '"):
        measured(
            standing(ctx.model, BLOCK, encoder=CharEncoder("ab", skip=False)), file=written(tmp_path / "t.txt", "a b")
        )


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ("a/wiki.txt", "wiki"),
        ("wiki.test.jsonl.gz", "wiki.test"),
        ("my text (1).txt", "my_text_1_"),
        ("notes", "notes"),
    ],
)
def test_the_metrics_are_called_as_the_file_is(file: str, prefix: str) -> None:
    assert Perplexity(file=file).prefix == prefix


def test_the_users_wish_to_stop_is_asked_for_between_passes(tmp_path: Path, standing: Any) -> None:
    ctx = standing(random_model(), BLOCK, batch_size=1, stops_after=2)
    passes: list[int] = []
    ctx.model.register_forward_pre_hook(lambda module, args: passes.append(1))
    with pytest.raises(KeyboardInterrupt):
        measured(ctx, file=written(tmp_path / "t.txt", TEXT))
    assert len(passes) == 2


def test_a_run_measures_a_file_as_it_trains(tiny: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    more = f"evaluator=['loss', {{use='perplexity', file='{written(tmp_path / 'snow.txt', TEXT)}'}}]"
    answer = command("run", tiny, more, "train.steps=2", "evaluate.every_steps=1", "callback=[]")
    assert answer.code == 0, answer.err
    logged = [json.loads(line) for path in tmp_path.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    losses = [record["snow/loss"] for record in logged if "snow/loss" in record]
    assert len(losses) == 2
    assert losses[0] > losses[1]


def test_a_run_does_not_begin_without_the_file(tiny: Path, command: Callable[..., Any]) -> None:
    answer = command("run", tiny, "evaluator=[{use='perplexity', file='nowhere.txt'}]")
    assert answer.code == 2
    assert "evaluator.0: no file 'nowhere.txt'" in answer.err


def test_a_file_that_is_not_text_is_named_beside_the_option(
    tiny: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "wide.txt").write_bytes(b"a text\n" * 20 + b"caf\xe9")
    answer = command("run", tiny, f"evaluator=[{{use='perplexity', file='{tmp_path / 'wide.txt'}'}}]")
    assert answer.code == 2
    assert f"evaluator.0: {tmp_path / 'wide.txt'}:21: not UTF-8: byte 0xe9" in answer.err
