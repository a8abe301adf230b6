"""The kind of files that models are exchanged in: format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds.expressible import TRAINING_ONLY, inexpressible
from nanogpt_kit.core.kinds.network import Model, Multipliers
from nanogpt_kit.core.kinds.text import Encoder
from nanogpt_kit.core.options import Component

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model as a format has read it."""

    # What is known of its experiment: the table [model] with `use`, and perhaps [tokenizer]; or an experiment file
    experiment: Mapping[str, Any] | Path
    weights: Mapping[str, Tensor]  # on the CPU, by the names of the model's `state_dict`; a tied one needs one name
    files: tuple[Path, ...]  # all that were read
    # Names of the weights with a row for each token, such as ("wte.weight", "lm_head.weight") of `gpt`: the number of
    # rows is adapted to the padding of the model. Empty: they have as many as the model.
    token_weights: tuple[str, ...] = ()
    tokenizer_state: Mapping[str, Any] | None = None  # what `Tokenizer.restore` takes, where the source has it
    tokenizer_remedy: str = ""  # in the message about a tokenizer of another size: what else to write


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model that a format may write."""

    experiment: Mapping[str, Any]  # every value of its experiment file, defaults included
    component_files: Mapping[str, bytes]  # what experiment["components"] names
    model: Model
    module: nn.Module  # what `model` has built, with its weights, in eval mode
    weights: Mapping[str, Tensor]  # its `state_dict` on the CPU; a tied one has all of its names
    multipliers: Multipliers  # those of its init, which `module` applies
    encoder: Encoder

    def check_options(self, program: str, allowed: Mapping[str, tuple[Any, ...] | None]) -> None:
        """Raises KitError with each option of the model that another program cannot express.

        `allowed` are the possible values of the options of [model] by dotted key, as in {"norm.use": ("rmsnorm",)};
        None: any, as long as all layers have the same. Other options must be unset. Options of the loss are ignored,
        as are those of an attention that computes plain softmax, except `window`. No multiplier may differ from 1.
        """
        faults = list(inexpressible(program, allowed, self.model, self.experiment, self.multipliers))
        if faults:
            raise KitError(*faults)

    def inference_weights(self) -> dict[str, Tensor]:
        """The weights without those of model.loss, which only training uses."""
        return {name: value for name, value in self.weights.items() if not name.startswith(TRAINING_ONLY)}


class Format(Component):
    """Files of a model that other programs read and write.

    A format that only writes leaves out `detects` and `read`; one that only reads leaves out `write`.
    """

    kind: ClassVar[str] = "format"
    sources: ClassVar[str] = ""  # what `detects` looks for, for messages: "a folder with config.json"

    def detects(self, path: Path) -> bool:
        """Whether `path`, which exists, looks like a model in this format: from names, or from a small part of a file.

        Asked of the default options. Never raises.
        """
        return False

    def read(self, path: Path) -> ImportedModel:
        """The model in a file or folder that somebody else may have made. Raises KitError, whatever it contains.

        What it contains is used, known to change nothing, or refused by name.
        """
        raise NotImplementedError

    def check_model(self, exported: ExportedModel) -> None:
        """Raises KitError with each reason why the format cannot hold the model. Called before `write`."""

    def write(self, folder: Path, exported: ExportedModel) -> None:
        """Writes files into an empty folder. OSError and KitError are reported to the user."""
        raise NotImplementedError
