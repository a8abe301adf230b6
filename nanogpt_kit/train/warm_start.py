"""Training that starts from trained weights: `model.init_from` names a run, or a published GPT-2."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.fit import check_fit
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.tokenizer_record import read_tokenizer_record
from nanogpt_kit.interop.gpt2 import PUBLISHED
from nanogpt_kit.interop.importing import import_run
from nanogpt_kit.nn.uninitialized import build_on_meta, build_uninitialized
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import InitFrom

logger = logging.getLogger(__name__)

FREE = ("model.init_from", "model.dropout", "model.block_size")  # what the same weights may be used with


@dataclass(frozen=True)
class WarmStart:
    """Weights to start from, and what their tokens mean."""

    checkpoint: Path
    sha256: str
    weights: Mapping[str, Tensor]
    tokenizer: Mapping[str, Any]  # as the checkpoint keeps it

    @classmethod
    def find(cls, wanted: Experiment, resumed: RunFolder | None, trust_code: bool) -> WarmStart | None:
        """None where training starts from random weights, or goes on from a checkpoint of its own.

        Raises KitError where the weights cannot be had or do not fit; downloads a published GPT-2.
        """
        name, place = wanted.model.init_from, wanted.location(("model", "init_from"))
        if name is None or (resumed and store.numbered(resumed.checkpoints)):
            return None
        try:
            checkpoint = again(resumed) if resumed else newest_of(name)
        except KitError as error:
            raise KitError(*(one.under("model.init_from", place) for one in error.faults)) from None
        folder = checkpoint.parents[1]
        before = Experiment.load(folder / "experiment.toml", trust_code=trust_code)
        logger.info("starting from %s", checkpoint)
        for told in differences(wanted, before):
            logger.warning("%s in %s", told, checkpoint)
        tokenizer = read_tokenizer_record(checkpoint / store.TOKENIZER)
        vocab_size = tokenizer.vocab_size
        weights = cropped(checkpoint, before, vocab_size, wanted.model.block_size)
        shapes = build_on_meta(wanted.model, vocab_size)
        if shapes is not None:
            check_fit(shapes, weights, str(checkpoint))
        return cls(checkpoint, store.weights_hash(checkpoint), weights, tokenizer.as_json())

    def check_tokens(self, wanted: Experiment, data: PreparedData) -> None:
        """Raises KitError where ids stand for other text than they did."""
        if meaning(self.tokenizer) != meaning(data.manifest.tokenizer.as_json()):
            now = f"{data.manifest.tokenizer.use} of {data.encoder.vocab_size:,} tokens"
            then = f"{self.tokenizer['use']} of {self.tokenizer['vocab_size']:,}"
            reason = f"{self.checkpoint} was trained on other tokens: {then}, here {now}"
            raise KitError(Fault(reason, "tokenizer", wanted.location(("tokenizer", "use"))))

    def facts(self) -> InitFrom:
        """For the provenance of the run that starts here."""
        return InitFrom(checkpoint=str(self.checkpoint), sha256=self.sha256)


def newest_of(name: str) -> Path:
    """The newest checkpoint of a run; a published GPT-2 is imported where no run has its name."""
    try:
        folder = runs.find(name)
    except KitError:
        if name not in PUBLISHED:
            raise
        folder = import_run(name)
    checkpoint = store.newest(folder.checkpoints)
    if checkpoint is None:
        raise KitError(f"{folder} has no checkpoint yet")
    return checkpoint


def again(resumed: RunFolder) -> Path:
    """The checkpoint that a run began from, before it had one of its own."""
    origin = resumed.provenance().init_from
    if origin is None:
        raise KitError(f"{resumed}: provenance.json does not name the weights that the run began with")
    checkpoint = Path(origin.checkpoint)
    if store.damage(checkpoint) or store.weights_hash(checkpoint) != origin.sha256:
        raise KitError(f"{resumed} began from {checkpoint}, which is no longer there as it was; begin a new run")
    return checkpoint


def differences(wanted: Experiment, before: Experiment) -> list[str]:
    """Options of the model that differ. Other sizes would not fit; others may fit and still be another network."""
    found = wanted.differences(before)
    replaced = tuple(key.removesuffix("use") for key in found if key.endswith(".use"))
    return [
        f"{key} is {now!r} here and was {then!r}"
        for key, (now, then) in found.items()
        if key.startswith("model.")
        and key not in FREE
        and not (key == "model.attention.use" and compute_same_attention(wanted, before))
        and (key.endswith((".use", ".window")) or not key.startswith(replaced))
    ]


def compute_same_attention(*experiments: Experiment) -> bool:
    """Whether their attentions compute the same function, whatever their kernels."""
    functions = {getattr(getattr(one.model, "attention", None), "computes", None) for one in experiments}
    return len(functions) == 1 and None not in functions


def cropped(checkpoint: Path, before: Experiment, vocab_size: int, block_size: int) -> dict[str, Tensor]:
    """The weights of a checkpoint, without what belongs to positions from `block_size` on."""
    model = build_uninitialized(before.model, vocab_size)
    store.load_weights(checkpoint, model)
    crop = getattr(model, "crop", None)
    if crop is not None and block_size < before.model.block_size:
        crop(block_size)
    return model.state_dict()


def meaning(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which text each id stands for: what was learnt, or, where nothing was, the options."""
    left_out = {"code", "fingerprint", "files"}
    if record["state"]:
        return {key: record[key] for key in ("use", "vocab_size", "eot_id", "state")}
    return {key: value for key, value in record.items() if key not in left_out}
