"""Training that starts from trained weights: `model.init_from` names a run, or a published GPT-2."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.interop.bring import import_run
from nanogpt_kit.interop.gpt2 import PUBLISHED
from nanogpt_kit.nn.blank import blank, on_meta
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import trust
from nanogpt_kit.runs.files import read_json, sha256

logger = logging.getLogger(__name__)

KEY = ("model", "init_from")
FREE = ("init_from", "dropout", "block_size", "attention")  # of [model]: what the same weights may be used with


@dataclass(frozen=True)
class WarmStart:
    """A checkpoint to start from, found and readable; which weights it has is known when the data is."""

    checkpoint: Path
    experiment: Experiment  # that it was trained by
    place: str  # where the file says so

    @classmethod
    def find(cls, wanted: Experiment, trust_code: bool) -> WarmStart | None:
        """None where training starts from random weights. Raises KitError; downloads a published GPT-2."""
        name = wanted.model.init_from
        if name is None:
            return None
        place = wanted.place(KEY)
        try:
            folder = runs.find(name)
        except KitError as error:
            if name not in PUBLISHED:
                raise KitError(Fault(str(error), "model.init_from", place)) from None
            folder = import_run(name)
        layers = Layers.load(folder.experiment)
        if not trust_code:
            trust.check(layers, folder.path)
        checkpoint = store.newest(folder.checkpoints)
        if checkpoint is None:
            raise KitError(Fault(f"{folder} has no checkpoint yet", "model.init_from", place))
        start = cls(checkpoint, Experiment.of(layers, folder.path), place)
        logger.info("starting from %s", checkpoint)
        start.tell_differences(wanted)
        return start

    def tell_differences(self, wanted: Experiment) -> None:
        """Other sizes would not fit; other options may fit and still be another network, so they are named."""
        for key, (now, then) in wanted.differences(self.experiment).items():
            section, _, option = key.partition(".")
            if section == "model" and option.split(".")[0] not in FREE:
                logger.warning("%s is %r here and was %r in %s", key, now, then, self.checkpoint)

    def weights(self, wanted: Experiment, data: Prepared) -> dict[str, Tensor]:
        """For the model of `wanted`, its context cropped. Raises KitError where the tokens mean something else."""
        saved = read_json(self.checkpoint / store.TOKENIZER)
        if meaning(saved) != meaning(data.manifest["tokenizer"]):
            now = f"{data.manifest['tokenizer']['use']} of {data.encoder.vocab_size:,} tokens"
            then = f"{saved['use']} of {saved['vocab_size']:,}"
            reason = f"{self.checkpoint} was trained on other tokens: {then}, here {now}"
            raise KitError(Fault(reason, "tokenizer", wanted.place(("tokenizer", "use"))))
        model = blank(self.experiment.model, saved["vocab_size"])
        store.load_weights(self.checkpoint, model)
        crop = getattr(model, "crop", None)
        if crop is not None and wanted.model.block_size < self.experiment.model.block_size:
            crop(wanted.model.block_size)
        weights = model.state_dict()
        store.check_fit(on_meta(wanted.model, data.encoder.vocab_size), weights, str(self.checkpoint))
        return weights

    def facts(self) -> dict[str, Any]:
        """For the provenance of the run that starts here."""
        return {"checkpoint": str(self.checkpoint), "sha256": sha256(self.checkpoint / store.MODEL)}


def meaning(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which text each id stands for: everything but whose code computes it."""
    return {key: value for key, value in record.items() if key not in ("code", "fingerprint")}
