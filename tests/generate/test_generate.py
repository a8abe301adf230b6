"""Text from a run: seeded, stopped at end-of-text, right beyond the context, whole characters only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, ModelContext, Sampler
from nanogpt_kit.checkpoint import store
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.decode import generate
from nanogpt_kit.generate.loaded import LoadedRun, load_run
from nanogpt_kit.runs.folder import find
from nanogpt_kit.train import session


@pytest.fixture
def loaded(tiny: Path) -> LoadedRun:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=60", "optimizer.lr=1e-2"]))
    return load_run("tiny")


def test_the_same_seed_gives_the_same_text_and_another_another(loaded: LoadedRun) -> None:
    assert loaded.generate(["1"], seed=3) == loaded.generate(["1"], seed=3)
    assert loaded.generate(["1"], seed=3) != loaded.generate(["1"], seed=4)


def test_a_text_does_not_depend_on_its_neighbours(loaded: LoadedRun) -> None:
    ids = loaded.encode("12 times").repeat(3, 1)
    samplers = [Temperature(value=1.0)]
    together = torch.stack(list(generate(loaded.model, ids, samplers, 25, [7, 8, 9], 16)), 1)
    for row, seed in enumerate([7, 8, 9]):
        alone = torch.stack(list(generate(loaded.model, ids[:1], samplers, 25, [seed], 16)), 1)
        assert torch.equal(alone[0], together[row])


def test_beyond_the_context_the_model_sees_its_last_block(loaded: LoadedRun) -> None:
    block = loaded.experiment.model.block_size
    ids = loaded.encode("41 times 48 is 1968, as every")
    assert ids.size(1) > block
    expected = []
    with torch.no_grad():
        for _ in range(2 * block):
            token = loaded.model(ids[:, -block:])[:, -1].argmax(-1)
            expected.append(int(token))
            ids = torch.cat([ids, token[None]], 1)
    greedy = generate(loaded.model, loaded.encode("41 times 48 is 1968, as every"), [TopK(k=1)], 2 * block, [0], block)
    assert [int(token) for token in greedy] == expected


VOCABULARY, BLOCK = 23, 8


def untrained(**options: object) -> nn.Module:
    """In float64 and with weights so large that each token depends on those before it."""
    torch.manual_seed(0)
    model = GPT(n_layer=3, n_head=4, n_embd=16, block_size=BLOCK, **options).build(ModelContext(vocab_size=VOCABULARY))
    GPT2(std=0.5).apply(model)
    return model.double().eval()


def by_recomputation(
    model: nn.Module, ids: Tensor, samplers: list[Sampler], new_tokens: int, seeds: list[int]
) -> Tensor:
    """The last block through the model, whole, for each new token."""
    dice = [torch.Generator().manual_seed(seed) for seed in seeds]
    length = ids.size(1)
    for _ in range(new_tokens):
        with torch.no_grad():
            logits = model(ids[:, -BLOCK:])[:, -1].float()
        for sampler in samplers:
            logits = sampler.transform(logits, ids)
        rows = zip(logits.softmax(-1), dice, strict=True)
        ids = torch.cat([ids, torch.stack([torch.multinomial(row, 1, generator=die) for row, die in rows])], dim=1)
    return ids[:, length:]


@pytest.mark.parametrize("prompt", [1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position": "rope", "n_kv_head": 2, "norm": "rmsnorm", "qk_norm": True, "mlp": "swiglu"},
        {"position": "alibi", "n_kv_head": 1, "attention": "naive"},
        {"position": "none", "attention": {"use": "sdpa", "window": 3}, "logit_softcap": 4.0},
        {"position": "rope", "attention": {"use": "flex", "window": 5}},
    ],
    ids=["default", "rope, grouped", "alibi, one head", "window", "flex"],
)
def test_a_text_is_the_one_that_recomputes_everything(options: dict[str, Any], prompt: int) -> None:
    model, seeds = untrained(**options), [5, 6, 7]
    ids = torch.randint(0, VOCABULARY, (3, prompt), generator=torch.Generator().manual_seed(prompt))
    samplers = [Temperature(value=1.3), TopK(k=9)]
    new_tokens = 5 if "flex" in str(options) else 2 * BLOCK
    expected = by_recomputation(model, ids, samplers, new_tokens, seeds)
    assert len(expected.unique()) > 3
    assert torch.equal(torch.stack(list(generate(model, ids, samplers, new_tokens, seeds, BLOCK)), 1), expected)


def test_until_the_context_is_full_a_new_token_costs_one_column() -> None:
    model, read = untrained(), []
    model.register_forward_pre_hook(lambda module, args: read.append(args[0].size(1)))
    tokens = list(generate(model, torch.zeros(1, 3, dtype=torch.long), [], BLOCK, [0], BLOCK))
    assert len(tokens) == BLOCK
    assert read == [3, 1, 1, 1, 1, 1, BLOCK, BLOCK]


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    model = untrained(vocab_multiple=32, weight_tying=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every word is as likely as the next
        model.lm_head.weight[VOCABULARY:] = torch.inf
    rows = 100
    ids = torch.zeros(rows, 1, dtype=torch.long)
    drawn = torch.stack(list(generate(model, ids, [Temperature(value=5.0)], 7, range(rows), BLOCK)))
    assert sorted(drawn.unique().tolist()) == list(range(VOCABULARY))


def test_temperature_zero_is_greedy_whatever_the_seed(loaded: LoadedRun) -> None:
    greedy = [Temperature(value=0.0)]
    assert loaded.generate(["3"], seed=1, samplers=greedy) == loaded.generate(["3"], seed=2, samplers=greedy)


def test_a_character_of_several_bytes_is_never_shown_by_halves(loaded: LoadedRun) -> None:
    class Scripted(torch.nn.Module):
        """Writes "a\u2603b" whatever it reads, then the end of the text."""

        def forward(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
            script = [*"a\u2603b".encode(), 256]
            logits = torch.full((1, ids.size(1), 257), -100.0)
            logits[:, -1, script[cache.length + ids.size(1) - 1]] = 100.0
            cache.advance(ids.size(1))
            return logits

    writer = LoadedRun(loaded.experiment, Scripted(), loaded.encoder, "cpu")
    assert list(writer.stream("x", max_new_tokens=9)) == ["x", "a", "", "", "\u2603", "b", ""]


def test_an_empty_prompt_begins_after_an_end_of_text(loaded: LoadedRun) -> None:
    assert loaded.encode("").tolist() == [[256]]
    assert loaded.generate([""], max_new_tokens=0) == [""]


def test_a_prompt_outside_the_vocabulary_is_named(tiny: Path) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "tokenizer=char", "train.steps=1", "sample.num_samples=0"]))
    loaded = load_run("tiny")
    with pytest.raises(KitError, match=r"the prompt cannot be encoded: not in the vocabulary of .* characters: 'Q'"):
        loaded.generate(["Q"])
    with pytest.raises(KitError, match="prompt is empty"):
        loaded.generate([""])


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
    with pytest.raises(KitError, match=r"brings its own code \(double.py\).*--trust-code"):
        load_run(folder.path)
    assert load_run(folder.path, trust_code=True).generate(["1"], max_new_tokens=1)
    (folder.path / "provenance.json").unlink()
    (folder.path / "components").rename(folder.path / "code")
    folder.experiment.write_text(folder.experiment.read_text().replace("components/", "code/"))
    with pytest.raises(KitError, match="brings its own code"):
        load_run(folder.path)
    with pytest.raises(KitError, match="brings its own code"):
        session.run(Experiment.load(tiny, ["train.steps=1"]), resume=str(folder.path))


def test_a_run_without_a_checkpoint_says_so(loaded: LoadedRun) -> None:
    folder = find("tiny")
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(KitError, match="no checkpoint yet"):
        load_run(folder.path)


def test_weights_come_from_the_newest_whole_checkpoint(tiny: Path) -> None:
    folder = session.run(Experiment.load(tiny, ["callback=[]"]))
    newest = store.newest(folder.checkpoints)
    assert newest is not None
    (newest / store.MODEL).unlink()
    assert load_run(folder.path).generate(["1"], max_new_tokens=2)
