"""Text from a run: seeded, stopped at end-of-text, right beyond the context, whole characters only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from nanogpt_kit.api import KVCache
from nanogpt_kit.checkpoint import store
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.generate.prompt import encode_prompt
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.train import session


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "runs"


@pytest.fixture
def loaded(tiny: Path, trained_runs: Path) -> TextGenerator:
    """A copy of a run that is trained once for all tests."""
    runs = Path(os.environ["NANOGPT_KIT_RUNS"])
    if trained_runs.exists():
        shutil.copytree(trained_runs, runs)
    else:
        session.run(Experiment.load(tiny, ["callback=[]", "train.steps=60", "optimizer.lr=1e-2"]))
        shutil.copytree(runs, trained_runs)
    return load_run("tiny")


def test_the_same_seed_gives_the_same_text_and_another_another(loaded: TextGenerator) -> None:
    assert loaded.generate(["1"], seed=3) == loaded.generate(["1"], seed=3)
    assert loaded.generate(["1"], seed=3) != loaded.generate(["1"], seed=4)


def test_a_text_does_not_depend_on_its_neighbours(loaded: TextGenerator) -> None:
    prompts = ["12 times", "1", "41 times 48 is 1968, as every", "12 times"] * 5
    options = {"max_new_tokens": 25, "samplers": [Temperature(value=1.0)]}
    loaded = load_run("tiny", overrides=["sample.precision=fp32"])
    together = loaded.generate(prompts, seed=7, **options)
    assert together[0] != together[3]
    for number, prompt in enumerate(prompts):
        assert loaded.generate([prompt], seed=7 + number, **options) == [together[number]]


def test_exact_goes_on_with_the_last_block(loaded: TextGenerator) -> None:
    block, prompt = loaded.experiment.model.block_size, "41 times 48 is 1968, as every"
    ids = torch.tensor([loaded.encoder.encode_batch([prompt])[0].tolist()])
    assert ids.size(1) > block
    expected = []
    with torch.no_grad():
        for _ in range(2 * block):
            token = loaded.model(ids[:, -block:])[:, -1].argmax(-1)
            expected.append(int(token))
            ids = torch.cat([ids, token[None]], 1)
    exact = load_run("tiny", overrides=["sample.on_overflow=exact", "sample.precision=fp32"])
    pieces = exact.stream_tokens([prompt], 2 * block, samplers=[TopK(k=1)])
    assert [piece.token for piece in pieces] == expected


def test_temperature_zero_is_greedy_whatever_the_seed(loaded: TextGenerator) -> None:
    greedy = [Temperature(value=0.0)]
    assert loaded.generate(["3"], seed=1, samplers=greedy) == loaded.generate(["3"], seed=2, samplers=greedy)


def test_a_character_of_several_bytes_is_never_shown_by_halves(loaded: TextGenerator) -> None:
    class Scripted(torch.nn.Module):
        """Writes "a\u2603b" whatever it reads, then the end of the text."""

        def forward(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
            script = [*"a\u2603b".encode(), 256]
            logits = torch.full((1, ids.size(1), 257), -100.0)
            logits[:, -1, script[cache.length + ids.size(1) - 1]] = 100.0
            cache.advance(ids.size(1))
            return logits

    writer = TextGenerator(loaded.experiment, Scripted(), loaded.encoder, "cpu")
    assert list(writer.stream("x", max_new_tokens=9)) == ["x", "a", "", "", "\u2603", "b", ""]
    assert [piece.finish_reason for piece in writer.stream_tokens(["x"], 9)] == [None] * 5 + ["eot"]


def test_an_empty_prompt_begins_after_an_end_of_text(loaded: TextGenerator) -> None:
    assert encode_prompt(loaded.encoder, "") == [256]
    assert loaded.generate([""], max_new_tokens=0) == [""]


def test_a_prompt_outside_the_vocabulary_is_named(tiny: Path) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "tokenizer=char", "train.steps=1", "sample.num_samples=0"]))
    loaded = load_run("tiny")
    with pytest.raises(KitError, match=r"the prompt cannot be encoded: not in the vocabulary of .* characters: 'Q'"):
        loaded.generate(["Q"])
    with pytest.raises(KitError, match="prompt is empty"):
        loaded.generate([""])
    with pytest.raises(KitError, match="cannot be encoded"):
        next(loaded.stream("Q"))


def test_a_run_of_its_own_code_needs_trust_where_that_code_never_ran(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "double.py").write_text(
        "from nanogpt_kit.api import MLP\nfrom torch import nn\n"
        "class Double(MLP):\n    def build(self, ctx):\n        return nn.Linear(ctx.n_embd, ctx.n_embd)\n",
        encoding="utf-8",
    )
    options = ["callback=[]", "components=['double.py']", "model.mlp=double", "train.steps=1"]
    folder = session.run(Experiment.load(tiny, options))
    (tmp_path / "double.py").unlink()
    load_run(folder.path)  # the run has its copy, and this user ran it
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(KitError, match=r"double\.py has never run on.*--trust-code"):
        load_run(folder.path)
    assert load_run(folder.path, trust_code=True).generate(["1"], max_new_tokens=1)
    load_run(folder.path)  # that was consent
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a third user"))
    (folder.path / "provenance.json").unlink()
    (folder.path / "components").rename(folder.path / "code")
    folder.experiment.write_text(folder.experiment.read_text().replace("components/", "code/"))
    with pytest.raises(KitError, match=r"double\.py has never run on"):
        load_run(folder.path)
    with pytest.raises(KitError, match=r"double\.py has never run on"):
        session.run(Experiment.load(tiny, ["train.steps=1"]), resume=str(folder.path))


def test_a_run_without_a_checkpoint_says_so(loaded: TextGenerator) -> None:
    folder = find_run("tiny").folder
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(KitError, match="no checkpoint yet"):
        load_run(folder.path)


def test_weights_come_from_the_newest_whole_checkpoint(tiny: Path) -> None:
    folder = session.run(Experiment.load(tiny, ["callback=[]"]))
    newest = store.newest_whole_checkpoint(folder.checkpoints)
    assert newest is not None
    (newest / store.MODEL).unlink()
    assert load_run(folder.path).generate(["1"], max_new_tokens=2)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_weights_that_have_changed_are_written_with(loaded: TextGenerator, precision: str) -> None:
    loaded = load_run("tiny", overrides=[f"sample.precision={precision}"])
    before = loaded.generate(["1"], 20)
    with torch.no_grad():
        loaded.model.h[0].mlp.c_proj.weight.mul_(-3)
    after = loaded.generate(["1"], 20)
    loaded.decoding_models.clear()
    assert before != after == loaded.generate(["1"], 20)
