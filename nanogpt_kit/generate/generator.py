"""A run as something to ask: its model, its tokenizer, its samplers."""

from __future__ import annotations

import logging
import os  # whose functions take a name that is too long for one that is not there
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.damaged import damaged, named_tensors
from nanogpt_kit.checkpoint.fit import fit
from nanogpt_kit.checkpoint.manifest import TOKENIZER, TRAINING, damage, step_of
from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, Model, Sampler
from nanogpt_kit.core.sections import Sample
from nanogpt_kit.data.vocabulary import read_record, restored
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.packed import Packed, products
from nanogpt_kit.generate.prompt import encode_prompt
from nanogpt_kit.generate.text import Text
from nanogpt_kit.generate.threads import Shares, shares_of
from nanogpt_kit.interop import bring
from nanogpt_kit.nn.compiler import compiler_missing
from nanogpt_kit.nn.uninitialized import build_uninitialized
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder

EXPORTED = "model.safetensors"  # of an exported run, beside its experiment.toml
CKPT = "ckpt.pt"  # nanoGPT's
# Tokens from which a CUDA graph is recorded: a guess, since no GPU was at hand. On a CPU (two cores of an AMD EPYC)
# torch.compile took 10 to 37 s and gave nothing: 5.2 to 6.1 ms a token of the baby GPT in fp32 and 4.8 to 5.4 in bf16,
# where 5.1 to 5.4 and 3.6 to 3.9 are as it is written.
WORTH_A_GRAPH = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A token of a text that is being written, or the end of one."""

    number: int  # of the text
    text: str  # that can be shown now: whole characters, and no beginning of a stop string; may be empty
    token: int | None = None  # None where a text ends before its first token
    logprob: float | None = None  # that the model gave the token, before any sampler; where it was asked for
    ended: str | None = None  # "length", "stop" (a stop string), "eot" (end-of-text); None where more comes


@dataclass(frozen=True)
class TextGenerator:
    experiment: Experiment
    model: nn.Module
    encoder: Encoder
    device: str
    packed: dict[tuple[str, int, str, int, int], Packed] = field(default_factory=dict, repr=False, compare=False)

    def generate(self, prompts: Sequence[str], max_new_tokens: int | None = None, **options: Any) -> list[str]:
        """A text for each prompt, which it begins with. The options are those of `pieces`."""
        texts = list(prompts)
        for piece in self.pieces(prompts, max_new_tokens, **options):
            texts[piece.number] += piece.text
        return texts

    def stream(self, prompt: str, max_new_tokens: int | None = None, **options: Any) -> Iterator[str]:
        """The prompt, then the text as it is made; a character of several bytes comes when it is whole."""
        pieces = self.pieces([prompt], max_new_tokens, **options)  # raises before anything is shown
        yield prompt
        for piece in pieces:
            yield piece.text

    def pieces(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        *,
        seed: int | None = None,
        samplers: Sequence[Sampler] | None = None,
        stop: Sequence[str] | None = None,
        logprobs: bool = False,
    ) -> Iterator[Piece]:
        """The texts that follow the prompts, a token each at a time; what is left out is as [sample] says.

        Text number i draws with seed + i, and does not depend on those beside it. Raises KitError for a prompt that
        cannot be encoded, before anything is written, and where the samplers leave no token.
        """
        wanted = self.experiment.sample
        if max_new_tokens is not None:
            wanted = wanted.model_copy(update={"max_new_tokens": max_new_tokens})
        chain = self.experiment.sampler if samplers is None else samplers
        first = wanted.seed if seed is None else seed
        stops = [text for text in (wanted.stop if stop is None else stop) if text]
        if isinstance(prompts, str):
            raise TypeError("prompts: a list of texts, got one text")
        encoded = [encode_prompt(self.encoder, prompt) for prompt in prompts]
        return self._write(encoded, wanted, chain, first, stops, logprobs)

    def _write(
        self,
        prompts: list[list[int]],
        wanted: Sample,
        samplers: Sequence[Sampler],
        seed: int,
        stops: Sequence[str],
        logprobs: bool,
    ) -> Iterator[Piece]:
        size = wanted.batch_size
        for first in range(0, len(prompts), size):
            numbers = list(range(first, min(first + size, len(prompts))))
            if not wanted.max_new_tokens:
                yield from (Piece(number, "", ended="length") for number in numbers)
                continue
            reader = self.reader(min(size, len(prompts)), wanted)
            decoder = self.decoder(
                [prompts[number] for number in numbers],
                [seed + number for number in numbers],
                wanted,
                samplers,
                reader,
                logprobs,
            )
            texts = {number: Text(self.encoder, stops, prompts[number]) for number in numbers}
            yield from self._texts(decoder, texts, wanted.max_new_tokens)

    def decoder(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        wanted: Sample,
        samplers: Sequence[Sampler],
        reader: Packed,
        logprobs: bool = False,
    ) -> Decoder | Shares:
        """For prompts in tokens, all written at a time; on a CPU perhaps by several threads."""
        size = -(-len(prompts) // reader.shares)  # rounded up
        decoders = [
            Decoder(
                reader,
                prompts[first : first + size],
                samplers,
                seeds[first : first + size],
                self.experiment.model.block_size,
                wanted.max_new_tokens,
                beyond=beyond(wanted.on_overflow, self.experiment.model),
                fast=None if reader.compile_mode == "off" else reader,
                with_logprobs=logprobs,
                device=self.device,
            )
            for first in range(0, len(prompts), size)
        ]
        return decoders[0] if len(decoders) == 1 else Shares(decoders)

    def _texts(self, decoder: Decoder | Shares, texts: dict[int, Text], max_new_tokens: int) -> Iterator[Piece]:
        """Those of one batch, a row each, by their numbers."""
        numbers = list(texts)
        is_compiled = isinstance(decoder, Decoder) and decoder.fast is not None
        for count in range(1, max_new_tokens + 1):
            drawn = decoder.draw()
            for row, number in enumerate(numbers):
                if number not in texts:
                    continue  # it has ended, and its row has not been taken out yet
                token, text = drawn.tokens[row], texts[number]
                logprob = drawn.logprobs[row] if drawn.logprobs else None
                shown = "" if token == self.encoder.eot_id else text.add(token)
                ended = "eot" if token == self.encoder.eot_id else "stop" if text.stopped else None
                ended = ended or ("length" if count == max_new_tokens else None)
                if ended:
                    shown += text.rest()
                    ended = "stop" if text.stopped else ended
                yield Piece(number, shown, token, logprob, ended)
                if ended:
                    del texts[number]
            if not texts:
                return
            if 2 * len(texts) <= len(numbers) and not is_compiled:  # it copies the cache
                rows = [row for row, number in enumerate(numbers) if number in texts]
                numbers = [numbers[row] for row in rows]
                decoder.keep(rows)

    def reader(self, texts: int, wanted: Sample) -> Packed:
        """The model as it writes so many texts at a time."""
        mode: str = wanted.compile
        if mode == "auto":
            mode = "graph" if self.device == "cuda" and wanted.max_new_tokens >= WORTH_A_GRAPH else "off"
        elif mode != "off" and (missing := compiler_missing(self.device)):
            logger.warning("decoding goes uncompiled: %s", missing)
            mode = "off"
        share_them = self.device == "cpu" and mode == "off"
        shares = shares_of(self.experiment, texts, products(self.model)[0]) if share_them else 1
        rows = -(-texts // shares)  # of each, rounded up
        # What was put into the weights or hung onto modules meanwhile makes another copy necessary
        changes = sum(parameter._version for parameter in self.model.parameters())
        listeners = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in self.model.modules())
        key = wanted.precision, rows, mode, changes, listeners
        if key not in self.packed:
            self.packed.clear()  # each holds a copy of most weights
            self.packed[key] = Packed(self.model, wanted.precision, rows, mode)
        self.packed[key].shares = shares if self.packed[key].own else 1
        return self.packed[key]


def beyond(setting: str, model: Model) -> str:
    """What is done where a text gets longer than the model's context."""
    return setting if setting != "auto" else "rolling" if model.relative else "refill"


def load_run(
    run: str | Path,
    device: str = "cpu",
    trust_code: bool = False,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    step: int | None = None,
) -> TextGenerator:
    """A checkpoint of a run, given as its folder or its experiment's name; `overrides` as on the command line.

    It is the newest, or that of `step`. `weights` names a callback that keeps some of its own, such as "ema"; left out,
    they are those that were trained. What `export` has written, in any format, can be given, too. Raises KitError where
    there is no such run, checkpoint or callback, or where the run brings code that this user never ran.
    """
    path = Path(run)
    exported = is_foreign(path) or os.path.exists(path / EXPORTED)
    if exported and (step is not None or weights is not None):
        raise KitError(f"{path} is an exported model: it has one step, and one set of weights")
    if is_foreign(path):
        return load_foreign(path, device, overrides)
    folder = RunFolder(path) if exported else runs.find(str(run))
    experiment = Experiment.load(folder.experiment, overrides, trust_code)
    checkpoint = folder.path if exported else chosen(folder, step)
    encoder = restored_from(checkpoint / TOKENIZER, experiment)
    model = build_uninitialized(experiment.model, encoder.vocab_size)
    if weights is None:
        store.load_weights(checkpoint, model)
    else:
        fit(model, kept_by(weights, checkpoint), str(checkpoint))
    return TextGenerator(experiment, model.to(device).eval(), encoder, device)


def restored_from(path: Path, experiment: Experiment) -> Encoder:
    """The tokenizer of a checkpoint. Raises KitError that names the file where it is not one."""
    try:
        return restored(experiment.tokenizer, read_record(path)["state"])
    except KitError as error:
        faults = (one.message if str(path) in one.message else f"{path}: {one.message}" for one in error.faults)
        raise KitError(*faults) from None


def is_foreign(path: Path) -> bool:
    """Whether it is a model in transformers' format or in nanoGPT's."""
    return os.path.isfile(path) or any(os.path.exists(path / name) for name in ("config.json", CKPT))


def load_foreign(path: Path, device: str, overrides: Sequence[str]) -> TextGenerator:
    file = path / CKPT if (path / CKPT).exists() else path
    meta = file.parent / "meta.pkl"
    foreign = bring.read(str(file), "", meta if file.is_file() and meta.exists() else None)
    experiment = bring.experiment_of(foreign, overrides)
    encoder = bring.encoder_of(foreign, experiment)
    model = build_uninitialized(experiment.model, encoder.vocab_size)
    fit(model, bring.padded(foreign, experiment, encoder.vocab_size), str(file))
    return TextGenerator(experiment, model.to(device).eval(), encoder, device)


def chosen(folder: RunFolder, step: int | None) -> Path:
    """The checkpoint of a step, or the newest. Raises KitError."""
    if step is None:
        newest = store.newest(folder.checkpoints)
        if newest is None:
            raise KitError(f"{folder} has no checkpoint yet")
        return newest
    found = {step_of(path): path for path in store.list_checkpoints(folder.checkpoints)}
    if step not in found:
        steps = ", ".join(map(str, found)) or "none"
        raise KitError(f"{folder} has no checkpoint of step {step}; there are: {steps}")
    fault = damage(found[step])
    if fault:
        raise KitError(f"{found[step]}: {fault}")
    return found[step]


def kept_by(callback: str, checkpoint: Path) -> Mapping[str, Tensor]:
    """The weights that a callback has put into a checkpoint. Raises KitError where none of that name has."""
    states = store.load_training(checkpoint).get("callbacks", {})
    with damaged(checkpoint / TRAINING):
        found = {name: state for name, state in states.items() if isinstance(state, Mapping) and "weights" in state}
        offered = {name.lower(): named_tensors(state["weights"]) for name, state in found.items()}
    if callback.lower() not in offered:
        raise KitError(f"{checkpoint} has no weights of a callback {callback!r}{did_you_mean(callback, offered)}")
    return offered[callback.lower()]
