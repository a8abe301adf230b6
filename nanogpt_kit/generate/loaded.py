"""A run as something to ask: its model, its tokenizer, its samplers."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, Sampler
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.generate.decode import generate
from nanogpt_kit.nn.blank import blank
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import trust
from nanogpt_kit.runs.files import read_json


@dataclass(frozen=True)
class LoadedRun:
    experiment: Experiment
    model: nn.Module
    encoder: Encoder
    device: str

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        seed: int | None = None,
        samplers: Sequence[Sampler] | None = None,
    ) -> list[str]:
        """A text for each prompt, the prompt included. What is left out is as the experiment's [sample] says.

        Text number i draws with seed + i. Raises KitError for a prompt that cannot be encoded.
        """
        first = self.experiment.sample.seed if seed is None else seed
        return [
            "".join(self.stream(prompt, max_new_tokens, first + number, samplers))
            for number, prompt in enumerate(prompts)
        ]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        samplers: Sequence[Sampler] | None = None,
    ) -> Iterator[str]:
        """The prompt, then the text as it is made; a character of several bytes comes when it is whole."""
        wanted = self.experiment.sample
        tokens = generate(
            self.model,
            self.encode(prompt),
            self.experiment.sampler if samplers is None else samplers,
            wanted.max_new_tokens if max_new_tokens is None else max_new_tokens,
            [wanted.seed if seed is None else seed],
            self.experiment.model.block_size,
        )
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        yield prompt
        for token in tokens:
            if token.item() == self.encoder.eot_id:
                break
            yield decoder.decode(self.encoder.decode_bytes(token.tolist()))
        yield decoder.decode(b"", final=True)

    def encode(self, prompt: str) -> Tensor:
        """(1, T) on the model's device."""
        return torch.tensor([encode_prompt(self.encoder, prompt)], device=self.device)


def encode_prompt(encoder: Encoder, prompt: str) -> list[int]:
    """An empty prompt is the end of the text before, where the tokenizer has one. Raises KitError."""
    try:
        ids: list[int] = encoder.encode_batch([prompt])[0].tolist()
    except (KitError, UnicodeEncodeError) as error:
        raise KitError(f"the prompt cannot be encoded: {error}") from None
    if ids:
        return ids
    if encoder.eot_id is None:
        raise KitError("the prompt is empty, and this tokenizer has no end-of-text token to begin with")
    return [encoder.eot_id]


def load_run(
    run: str | Path, device: str = "cpu", trust_code: bool = False, overrides: Sequence[str] = ()
) -> LoadedRun:
    """The newest checkpoint of a run, given as its folder or its experiment's name; `overrides` as on the command line.

    Raises KitError where there is no run or no whole checkpoint, or where the run brings code that this user never ran.
    """
    folder = runs.find(str(run))
    layers = Layers.load(folder.experiment, overrides)
    if not trust_code:
        trust.check(layers, folder.path)
    experiment = Experiment.of(layers, folder.path)
    checkpoint = store.newest(folder.checkpoints)
    if checkpoint is None:
        raise KitError(f"{folder} has no checkpoint yet")
    encoder = experiment.tokenizer.restore(read_json(checkpoint / store.TOKENIZER)["state"])
    model = blank(experiment.model, encoder.vocab_size)
    store.load_weights(checkpoint, model)
    return LoadedRun(experiment, model.to(device).eval(), encoder, device)
