"""A run as something to ask: its model, its tokenizer, its samplers."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError, nearest
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, Sampler
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.generate.decode import generate
from nanogpt_kit.nn.blank import blank
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import trust
from nanogpt_kit.runs.files import read_json
from nanogpt_kit.runs.folder import RunFolder


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
    run: str | Path,
    device: str = "cpu",
    trust_code: bool = False,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    step: int | None = None,
) -> LoadedRun:
    """A checkpoint of a run, given as its folder or its experiment's name; `overrides` as on the command line.

    It is the newest, or that of `step`. `weights` names a callback that keeps some of its own, such as "ema"; left out,
    they are those that were trained. Raises KitError where there is no such run, checkpoint or callback, or where the
    run brings code that this user never ran.
    """
    folder = runs.find(str(run))
    layers = Layers.load(folder.experiment, overrides)
    if not trust_code:
        trust.check(layers, folder.path)
    experiment = Experiment.of(layers, folder.path)
    checkpoint = chosen(folder, step)
    encoder = experiment.tokenizer.restore(read_json(checkpoint / store.TOKENIZER)["state"])
    model = blank(experiment.model, encoder.vocab_size)
    if weights is None:
        store.load_weights(checkpoint, model)
    else:
        store.fit(model, kept_by(weights, checkpoint), str(checkpoint))
    return LoadedRun(experiment, model.to(device).eval(), encoder, device)


def chosen(folder: RunFolder, step: int | None) -> Path:
    """The checkpoint of a step, or the newest. Raises KitError."""
    if step is None:
        newest = store.newest(folder.checkpoints)
        if newest is None:
            raise KitError(f"{folder} has no checkpoint yet")
        return newest
    found = {store.step_of(path): path for path in store.numbered(folder.checkpoints)}
    if step not in found:
        steps = ", ".join(map(str, found)) or "none"
        raise KitError(f"{folder} has no checkpoint of step {step}; there are: {steps}")
    fault = store.damage(found[step])
    if fault:
        raise KitError(f"{found[step]}: {fault}")
    return found[step]


def kept_by(callback: str, checkpoint: Path) -> Mapping[str, Tensor]:
    """The weights that a callback has put into a checkpoint. Raises KitError where none of that name has."""
    states = store.load_training(checkpoint).get("callbacks", {})
    offered = {name.lower(): state["weights"] for name, state in states.items() if "weights" in state}
    if callback.lower() not in offered:
        raise KitError(f"{checkpoint} has no weights of a callback {callback!r}{nearest(callback, offered)}")
    weights: Mapping[str, Tensor] = offered[callback.lower()]
    return weights
