"""A sampler with memory, mirostat: its limit follows from the tokens drawn, in each text by itself."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.api import ModelContext, Sampler
from nanogpt_kit.cli.conversation import converse
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.decoding_model import DecodingModel
from nanogpt_kit.generate.draw import draw_tokens
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.generate.threads import ThreadedDecoder
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.samples import newest_samples
from nanogpt_kit.testing.sampler import SamplerConformance
from nanogpt_kit.train import session
from tests.seams.components.mirostat import Mirostat

COMPONENT = Path(__file__).parent / "components" / "mirostat.py"
VOCABULARY, BLOCK = 23, 8
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5], [3, 5, 8, 9, 7, 9, 3, 2, 3]]
MIROSTAT = Mirostat(target=2.0, rate=0.3)


class TestMirostat(SamplerConformance):
    component = MIROSTAT


class TestMirostatByDefault(SamplerConformance):
    component = Mirostat()


def test_the_page_of_samplers_shows_this_component() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "kinds" / "sampler.md").read_text(encoding="utf-8")
    _, _, code = COMPONENT.read_text(encoding="utf-8").partition("import annotations\n\n")
    assert f"```python\n{code}```" in page


def untrained() -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=2, n_head=4, n_embd=16, block_size=BLOCK, position="rope")
    module = model.build(ModelContext(vocab_size=VOCABULARY))
    GPT2(std=0.5).apply(module, parameter_shapes(module))
    return module.double().eval()


def text_with_running_limit(model: nn.Module, prompt: list[int], seed: int, new: int) -> list[int]:
    """Algorithm 2 of the paper, which changes mu after each token; every token from the last block, recomputed."""
    ids, mu = list(prompt), 2 * MIROSTAT.target
    for index in range(new):
        with torch.no_grad():
            logits = model(torch.tensor([ids[-BLOCK:]]))[0, -1].float()
        surprises = [-math.log2(p) for p in logits.double().softmax(-1).tolist()]
        least = min(surprises)
        kept = [surprise <= mu or surprise == least for surprise in surprises]
        possible = torch.where(torch.tensor(kept), logits, -torch.inf)
        token = int(draw_tokens(possible[None], [seed], index))
        mu -= MIROSTAT.rate * (surprises[token] - MIROSTAT.target)
        ids.append(token)
    return ids[len(prompt) :]


def decoder_of(
    model: nn.Module, prompts: list[list[int]], seeds: range, samplers: list[Sampler] | None = None, **options: Any
) -> Decoder:
    return Decoder(model, prompts, [MIROSTAT] if samplers is None else samplers, seeds, BLOCK, 3 * BLOCK, **options)


def texts_of(decoder: Decoder | ThreadedDecoder, new: int = 3 * BLOCK) -> list[list[int]]:
    return [list(text) for text in zip(*(decoder.draw_next().tokens for _ in range(new)), strict=True)]


def test_the_limit_is_the_one_that_the_algorithm_keeps() -> None:
    """In a batch of prompts of several lengths, beyond the context, though the sampler keeps nothing."""
    model = untrained()
    expected = [text_with_running_limit(model, ids, 5 + row, 3 * BLOCK) for row, ids in enumerate(PROMPTS)]
    assert texts_of(decoder_of(model, PROMPTS, range(5, 9))) == expected
    assert expected != texts_of(decoder_of(model, PROMPTS, range(5, 9), []))


def test_a_sampler_gets_the_log_probabilities_by_the_models_logits() -> None:
    """Whatever samplers come before it, and as --logprobs prints them."""
    decoder = decoder_of(untrained(), PROMPTS, range(4), [Temperature(value=0.5), MIROSTAT, TopK(k=5)])
    decoder.with_logprobs = True
    drawn = [decoder.draw_next().logprobs for _ in range(5)]
    assert decoder.logprobs.dtype == torch.float32
    torch.testing.assert_close(decoder.logprobs, torch.tensor(drawn).T)


def test_they_are_kept_only_for_samplers_that_use_them() -> None:
    decoder = decoder_of(untrained(), PROMPTS, range(4), [TopK(k=5)])
    drawn = [decoder.draw_next() for _ in range(3)]
    assert decoder.logprobs.shape == (4, 0)
    assert all(step.logprobs is None for step in drawn)


@pytest.mark.parametrize("on_overflow", ["exact", "refill", "rolling"])
def test_a_text_is_the_same_alone_in_a_batch_in_threads_and_once_others_have_ended(on_overflow: str) -> None:
    model = untrained()
    alone = [
        texts_of(decoder_of(model, [ids], range(row, row + 1), on_overflow=on_overflow))[0]
        for row, ids in enumerate(PROMPTS)
    ]
    whole = decoder_of(model, PROMPTS, range(4), on_overflow=on_overflow)
    parts = (decoder_of(model, PROMPTS[i:j], range(i, j), on_overflow=on_overflow) for i, j in ((0, 1), (1, 4)))
    for decoder in (whole, ThreadedDecoder([*parts])):
        first = texts_of(decoder, new=5)
        decoder.keep_rows([1, 3])
        later = texts_of(decoder, new=3 * BLOCK - 5)
        assert first == [text[:5] for text in alone]
        assert later == [alone[1][5:], alone[3][5:]]


def test_a_static_cache_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model, options = DecodingModel(untrained(), "fp32", 4, "default"), {"on_overflow": "refill"}
    static = decoder_of(model, PROMPTS, range(4), static_cache=True, **options)
    assert texts_of(static) == texts_of(decoder_of(model, PROMPTS, range(4), **options))
    assert isinstance(static.cache, StaticCache)


# --- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, tiny_source: str) -> RunFolder:
    """A run whose experiment names the sampler, also for the texts at each evaluation."""
    folder = tmp_path_factory.mktemp("mirostat")
    (folder / "text.txt").write_text(tiny_source, encoding="utf-8")
    file = folder / "tiny.toml"
    file.write_text(tiny_text.format(text=folder / "text.txt"), encoding="utf-8")
    overrides = [f"components=['{COMPONENT}']", "sampler=['mirostat']", "evaluator=['loss', 'samples']", "callback=[]"]
    overrides += ["train.steps=60", "sample.num_samples=0", "optimizer.lr=1e-2", "sample.precision=fp32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
        patch.setenv("NANOGPT_KIT_DATA", str(folder / "data"))
        patch.setenv("NANOGPT_KIT_CONSENTED", "")
        return session.run(Experiment.load(file, overrides, trust_code=True))


@pytest.fixture(scope="module")
def trained(run_folder: RunFolder) -> TextGenerator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGPT_KIT_CONSENTED", "")
        return load_run(run_folder.path, trust_code=True)


@pytest.mark.parametrize("target", [2.5, 3.0])
def test_the_mean_surprise_of_a_trained_model_approaches_the_target(trained: TextGenerator, target: float) -> None:
    samplers = [Mirostat(target=target, rate=0.2)]
    tokens = list(trained.stream_tokens(["12 times"] * 8, 200, samplers=samplers, logprobs=True))
    surprises = [-token.logprob / math.log(2) for token in tokens if token.logprob is not None]
    assert len(surprises) == 8 * 200
    assert mean(surprises) == pytest.approx(target, abs=0.1)
    plain = list(trained.stream_tokens(["12 times"] * 8, 200, samplers=[], logprobs=True))
    assert mean(-token.logprob for token in plain if token.logprob is not None) / math.log(2) > 3.3


def test_a_new_prompt_begins_a_new_memory(trained: TextGenerator, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Also in a conversation, and also where the prompt is a text that was generated."""
    typed = iter(["1", "12 times"])

    def next_prompt(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", next_prompt)
    converse(trained, {"max_new_tokens": 40}, 7, num_samples=1)
    expected = trained.generate("1", 40, seed=7) + trained.generate("12 times", 40, seed=8)
    assert capsys.readouterr().out.split() == " ".join(expected).split()


def test_the_evaluator_samples_writes_texts_with_it(trained: TextGenerator, run_folder: RunFolder) -> None:
    assert newest_samples(run_folder.samples).startswith(trained.generate("\n", 200, seed=1337)[0])
