"""Training that starts from trained weights: `model.init_from` names a run, or a published GPT-2."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.fit import check_weights_match
from nanogpt_kit.checkpoint.manifest import TOKENIZER, Manifest, find_damage, step_of
from nanogpt_kit.checkpoint.of_run import checkpoint_of_run
from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.inner_models import inner_model, key_of_inner
from nanogpt_kit.core.layered_differences import with_shortest_lists
from nanogpt_kit.core.layered_slots import of_layer
from nanogpt_kit.core.options import digest
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.tokenizer_of_run import state_from_run
from nanogpt_kit.data.tokenizer_record import read_tokenizer_record
from nanogpt_kit.interop.formats import detect_format
from nanogpt_kit.interop.importing import import_run
from nanogpt_kit.nn.uninitialized import build_on_meta, build_uninitialized
from nanogpt_kit.runs.find import PUBLISHED_MODELS, FoundRun, find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import InitFrom
from nanogpt_kit.runs.recorded_experiment import explained_by, load_recorded, warn_of_other_versions
from nanogpt_kit.train.other_loss import without_other_loss
from nanogpt_kit.train.starting_tokens import describe_other_tokens, other_tokens_error, token_semantics
from nanogpt_kit.train.starting_weights import comparable_experiments, completed_weights

logger = logging.getLogger(__name__)

PUBLISHED_TOKENIZER: dict[str, Any] = {"use": "gpt2", "vocab_size": 50_257, "state": {}}  # of all PUBLISHED_MODELS
ATTENTION = re.compile(r"model\.attention(\.\d+\.use|\.use)?")  # the key of a kernel, or of a list with them
# Options that may differ from those of the model that had the weights
MAY_DIFFER = ("model.init_from", "model.dropout", "model.block_size", "model.bf16_residual")
LOSS = "model.loss."  # beginning of keys that may differ as well


@dataclass(frozen=True)
class WarmStart:
    """Weights to start from, and the tokenizer that they were trained with."""

    checkpoint: Path
    sha256: str
    weights: Mapping[str, Tensor]
    tokenizer: Mapping[str, Any]  # the record in the checkpoint
    before: Experiment  # that of the weights

    @classmethod
    def find(cls, experiment: Experiment, resumed: RunFolder | None, trust_code: bool) -> WarmStart | None:
        """None where training starts from random weights, or continues from a checkpoint of the run.

        Downloads a published GPT-2. Raises KitError where the weights cannot be read or do not fit.
        """
        name, location = experiment.model.init_from, experiment.location(("model", "init_from"))
        if name is None or (resumed and store.list_checkpoints(resumed.checkpoints)):
            return None
        if not resumed and is_download(experiment):
            check_published_tokens(experiment)
        try:
            checkpoint = original_checkpoint(resumed) if resumed else named_checkpoint(name)
        except KitError as error:
            raise KitError(*(fault.reported_at("model.init_from", location) for fault in error.faults)) from None
        return cls.read(experiment, checkpoint, trust_code)

    @classmethod
    def read(cls, experiment: Experiment, checkpoint: Path, trust_code: bool) -> WarmStart:
        """The weights of a checkpoint, for the model of `experiment`. Raises KitError where they do not fit."""
        before = load_recorded(RunFolder(checkpoint.parents[1]), (), trust_code, needs=(), step=step_of(checkpoint))
        versions = warn_of_other_versions(before, ("init",))
        differences = model_differences(experiment, before)
        merges = inner_model(experiment.model) is None
        tokenizer = read_tokenizer_record(checkpoint / TOKENIZER)
        vocab_size = tokenizer.vocab_size
        with explained_by(versions):
            weights = cropped_weights(checkpoint, before, vocab_size, experiment.model.block_size, merges)
        shapes = build_on_meta(experiment.model, vocab_size)
        weights = without_other_loss(weights, *comparable_experiments(experiment, before), shapes, checkpoint)
        if shapes is not None:
            given = completed_weights(weights, shapes, experiment.model)
            try:
                check_weights_match(shapes, given, str(checkpoint), same_options_remedy(differences))
            except KitError as error:  # other tokens are reported with it
                now = describe_other_tokens(experiment, before, tokenizer.as_json())
                other = now and other_tokens_error(experiment, checkpoint, tokenizer.as_json(), now)
                raise KitError(*error.faults, *(other.faults if other else ())) from None
        check_same_multipliers(experiment, before, checkpoint)
        for key, (now, then) in differences.items():
            logger.warning("%s is %r here and was %r in %s", key, now, then, checkpoint)
        return cls(checkpoint, Manifest.read(checkpoint).weights_hash, weights, tokenizer.as_json(), before)

    def check_tokens(self, experiment: Experiment, data: PreparedData) -> None:
        """Raises KitError where token ids stand for other text than in the checkpoint."""
        if token_semantics(self.tokenizer) != token_semantics(data.manifest.tokenizer.as_json()):
            now = f"{data.manifest.tokenizer.use} of {data.encoder.vocab_size:,} tokens"
            raise other_tokens_error(experiment, self.checkpoint, self.tokenizer, now)

    def check_tokenizer_options(self, experiment: Experiment) -> None:
        """As `check_tokens`, before there is data: where the options alone show that token ids differ."""
        now = describe_other_tokens(experiment, self.before, self.tokenizer)
        if now:
            raise other_tokens_error(experiment, self.checkpoint, self.tokenizer, now)

    def origin(self) -> InitFrom:
        """The checkpoint, for the provenance of the run; see `original_checkpoint`."""
        return InitFrom(checkpoint=str(self.checkpoint), sha256=self.sha256)


def is_download(experiment: Experiment) -> bool:
    """Whether the weights to start from are published ones that have not been imported yet."""
    name = experiment.model.init_from
    if name not in PUBLISHED_MODELS:
        return False
    try:
        find_run(name)
    except KitError:
        return True
    return False


def check_published_tokens(experiment: Experiment) -> None:
    """Raises KitError where the tokenizer is not that of the published GPT-2 whose weights would be downloaded."""
    now = describe_other_tokens(experiment, experiment, PUBLISHED_TOKENIZER)
    if now:
        raise other_tokens_error(experiment, Path(str(experiment.model.init_from)), PUBLISHED_TOKENIZER, now)


def named_checkpoint(name: str) -> Path:
    """The checkpoint that a reference to a run stands for; logs which run it is.

    A published GPT-2 is imported where no run has its name. Raises KitError where there is no such run.
    """
    try:
        found = find_run(name)
        check_not_exported(found.folder.path)
    except KitError:
        if name not in PUBLISHED_MODELS:
            check_not_exported(Path(name))
            raise
        found = FoundRun(import_run(name))
    checkpoint = checkpoint_of_run(found)
    logger.info("model.init_from: %s", found.described(step_of(checkpoint)))
    return checkpoint


def check_not_exported(path: Path) -> None:
    """Raises KitError where a path is not a run, but a model in a format."""
    found = None if (path / "checkpoints").is_dir() else detect_format(path)
    if found is not None:
        command = shlex.join(["nanogpt-kit", "import", str(path)])
        raise KitError(f"{path} is a model in the format {found.name}, not a run; `{command}` makes a run of it")


def start_identity(experiment: Experiment) -> str:
    """A hash of the weights and the tokenizer that a run would take from other runs now; "" where it takes none.

    The newest run of a name is another one once that has been trained again. Raises KitError where a run is missing.
    """
    name, weights, tokens = experiment.model.init_from, "", None
    if name is not None and not is_download(experiment):
        weights = Manifest.read(checkpoint_of_run(find_run(name))).weights_hash
    if experiment.tokenizer.from_run is not None:
        tokens = state_from_run(experiment)
    return digest([weights, tokens]) if weights or tokens is not None else ""


def original_checkpoint(resumed: RunFolder) -> Path:
    """The checkpoint that a run started from, for a run that has not saved one yet."""
    record = resumed.provenance()
    origin = record.init_from
    if origin is None:
        raise KitError(f"{resumed}: provenance.json does not name the weights that the run started from")
    checkpoint = record.recorded_path(origin.checkpoint)
    if find_damage(checkpoint) or Manifest.read(checkpoint).weights_hash != origin.sha256:
        raise KitError(f"{resumed} started from {checkpoint}, which was changed or removed since; start a new run")
    logger.info("model.init_from: %s, as before", checkpoint)
    return checkpoint


def model_differences(experiment: Experiment, before: Experiment) -> dict[str, tuple[Any, Any]]:
    """Options of the model that differ, as key: (here, there). Weights may fit although the network is another one."""
    mine, theirs = comparable_experiments(experiment, before)
    key_of_model = dotted(key_of_inner(experiment.model)) if mine is not experiment else "model"
    experiment, before = with_shortest_lists(mine), with_shortest_lists(theirs)
    changed = experiment.differences(before)
    replaced = tuple(key.removesuffix("use") for key in changed if key.endswith(".use"))
    return {
        key.replace("model", key_of_model, 1): (now, then)
        for key, (now, then) in changed.items()
        if key.startswith("model.")
        and key not in MAY_DIFFER
        and not key.startswith(LOSS)
        and not (ATTENTION.fullmatch(key) and compute_same_attention(experiment, before))
        and (key.endswith((".use", ".window")) or not key.startswith(replaced))
    }


def same_options_remedy(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """The overrides that make the model the one that had the weights; empty where no option that was set differs."""
    overrides = [f"{key}={override_text(then)}" for key, (_, then) in differences.items() if then is not None]
    return f"set {shlex.join(overrides)}, as in their run" if overrides else ""


def check_same_multipliers(experiment: Experiment, before: Experiment, checkpoint: Path) -> None:
    """Raises KitError where the init of the weights' run has given its network other factors than this one has."""
    now, then = (one.multipliers for one in (experiment, before))
    if now != then:
        init = before.resolved()["init"]
        values = [f"init.{option}={override_text(value)}" for option, value in init.items()]
        trained = f"the weights of {checkpoint} were trained with other multipliers ({then}) than init has ({now})"
        location = experiment.location(("init", "use"))
        raise KitError(Fault(f"{trained}; set {shlex.join(values)}, as in their run", "init", location))


def compute_same_attention(*experiments: Experiment) -> bool:
    """Whether their attentions compute the same function in every layer, whatever their kernels.

    Where both are lists of one length, or no lists, their windows are options that are compared by themselves.
    """
    attentions = [getattr(experiment.model, "attention", None) for experiment in experiments]
    are_alike = len({len(attention) if isinstance(attention, tuple) else 0 for attention in attentions}) == 1
    for layer in range(max(getattr(experiment.model, "n_layer", 1) for experiment in experiments)):
        parts = [of_layer(attention, layer) for attention in attentions]
        functions = {getattr(part, "computed_function", None) for part in parts}
        windows = {getattr(part, "window", None) for part in parts}
        if len(functions) > 1 or None in functions or (len(windows) > 1 and not are_alike):
            return False
    return True


def cropped_weights(
    checkpoint: Path, before: Experiment, vocab_size: int, block_size: int, merges: bool
) -> dict[str, Tensor]:
    """The weights of a checkpoint, without those of positions from `block_size` on.

    `merges`: those that its model adds to the one in its slot, if it does, are merged into that one's.
    """
    model = build_uninitialized(before.model, before.model_context(vocab_size))
    store.load_weights(checkpoint, model)
    crop = getattr(model, "crop", None)
    if crop is not None and block_size < before.model.block_size:
        crop(block_size)
    if merges and inner_model(before.model) is not None:
        model = before.model.merge(model)
    return model.state_dict()
