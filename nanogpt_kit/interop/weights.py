"""GPT-2-shaped models of other programs: names of their tensors, checks of what was read, and what can be exported."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Attention
from nanogpt_kit.core.layered_slots import listed
from nanogpt_kit.interop.layer_lists import different_parts, model_options, values_at

logger = logging.getLogger(__name__)

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk, as Python, torch and safetensors report it

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
VOCABULARY_MATRICES = EMBEDDING, HEAD  # one row per token
POSITIONS = "position.wpe.weight"  # `wpe.weight` in other programs
MAX_SIZE = 2**31 - 1  # of any dimension; no memory holds a larger one
FLOAT_TYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)  # fewer bits need scales
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # ddp, compile, fsdp
OUTER_MODULES = {"transformer", "model"}  # modules that contain the whole network
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask of attention without a fused kernel


@dataclass(frozen=True)
class ImportedModel:
    """A GPT-2-shaped model as it was read."""

    path: Path  # its file or folder
    name: str  # of the experiment that its run belongs to
    options: Mapping[str, Any]  # of [model]
    weights: Mapping[str, Tensor]  # by the names of our model; with as many token rows as were read
    files: tuple[Path, ...]  # all that were read
    tokenizer: Mapping[str, Any] = field(default_factory=lambda: {"use": "gpt2"})  # options of [tokenizer]
    tokenizer_state: Mapping[str, Any] | None = None  # what it has learnt; None where its options define it

    def __post_init__(self) -> None:
        """Raises KitError for weights that no model of these options has, before anything is allocated."""
        for name, value in self.weights.items():
            if value.dtype not in FLOAT_TYPES:
                raise KitError(f"{self.path}: {name} is {value.dtype}; expected {', '.join(map(str, FLOAT_TYPES))}")
        if EMBEDDING not in self.weights or self.weights[EMBEDDING].ndim != 2:
            raise KitError(f"{self.path} is not a GPT-2: it has no matrix named wte.weight")
        layers = {name.split(".")[1] for name in self.weights if name.startswith("h.")}
        if self.options["n_layer"] != len(layers):
            raise KitError(f"{self.path} has n_layer = {self.options['n_layer']}, but weights of {len(layers)} layers")

    @property
    def vocab_size(self) -> int:
        return self.weights[EMBEDDING].size(0)


def rename_weights(weights: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The weights by the names of our model. Raises KitError unless all are tensors with distinct names."""
    renamed: dict[str, Tensor] = {}
    original_names: dict[str, str] = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            raise KitError(f"{path} is not a GPT-2: its tensors have no names")
        if not is_plain_tensor(value):
            raise KitError(f"{path}: {format_value(name)} is not a plain tensor")
        new_name = imported_name(name)
        if new_name in renamed and not equal_tensors(renamed[new_name], value):
            raise KitError(f"{path}: {original_names[new_name]} and {name} differ, but both are {new_name} here")
        renamed.setdefault(new_name, value)
        original_names.setdefault(new_name, name)
    return renamed


def imported_name(name: str) -> str:
    """transformer.wpe.weight -> position.wpe.weight, without the parts that torch's wrappers add."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts and parts[0] in OUTER_MODULES:
        del parts[0]
    joined = ".".join(parts)
    return POSITIONS if joined == "wpe.weight" else joined


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor in memory: neither sparse, quantized nor a subclass."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def equal_tensors(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def drop_mask_buffers(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights without the buffers that mask attention. Raises KitError for one that is not the causal mask."""
    parameters = {}
    for name, value in weights.items():
        kind = MASK_BUFFER.fullmatch(name)
        if kind is None:
            parameters[name] = value
        elif not (is_causal_mask(value) if kind[1] == "bias" else is_minus_infinity(value)):
            raise KitError(f"{path}: {name} is not the causal mask of GPT-2, and no other buffer can be imported")
    return parameters


def is_causal_mask(mask: Tensor) -> bool:
    """Whether it is (1, 1, T, T), ones at and below the diagonal and zeros above."""
    size = mask.size(-1) if mask.ndim == 4 else 0
    return mask.shape == (1, 1, size, size) and equal_tensors(
        mask[0, 0], torch.ones(size, size, dtype=torch.bool).tril()
    )


def is_minus_infinity(value: Tensor) -> bool:
    """Whether it is transformers' constant for masked scores: -1e4 (in bfloat16 -9984), in later versions -1e9."""
    return value.numel() == 1 and value.is_floating_point() and value.item() <= -9984


def resolve_weight_tying(weights: dict[str, Tensor], path: Path, claim: str) -> bool:
    """Whether head and embedding are one matrix, as `claim` states; removes a head that only repeats the embedding.

    As in transformers the weights decide: two matrices that differ are not tied, and a single one is both.
    """
    if EMBEDDING not in weights and HEAD in weights:
        weights[EMBEDDING] = weights[HEAD]
    if HEAD not in weights or equal_tensors(weights[HEAD], weights[EMBEDDING]):
        weights.pop(HEAD, None)
        return True
    logger.warning(
        "%s: %s, but its lm_head.weight differs from wte.weight; imported with model.weight_tying = false", path, claim
    )
    return False


def check_tensor_bytes(weights: Iterable[Any], path: Path) -> None:
    """Raises KitError if the tensors are larger than their file: strides of 0 let a few bytes stand for any number."""
    tensors = [value for value in weights if isinstance(value, Tensor)]
    total, file_size = sum(value.numel() * value.element_size() for value in tensors), path.stat().st_size
    if total > 2 * file_size:  # a tied matrix has two names
        raise KitError(f"{path}: its tensors need {total:,} bytes, but the file has {file_size:,}")


def number_fault(value: object, low: float, high: float, integer: bool = False) -> str | None:
    """Which number was expected; None if `value` is one."""
    if not isinstance(value, bool) and isinstance(value, int if integer else (int, float)) and low <= value <= high:
        return None
    return f"expected {'an integer' if integer else 'a number'} from {low:g} to {high:g}"


def format_value(value: object) -> str:
    """A value from an untrusted file, short enough for a message."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "an integer of more than 30 digits"
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text + "..." * (isinstance(value, str) and len(value) > 60)


def exported_name(name: str) -> str:
    if name == HEAD:
        return name
    return "transformer." + ("wpe.weight" if name == POSITIONS else name)


def check_expressible(experiment: Experiment, allowed: Mapping[str, tuple[Any, ...]], program: str) -> None:
    """Raises KitError with each option of [model] that `program` cannot express; `allowed` is by dotted key."""
    faults = []
    for attention in dict.fromkeys(listed(getattr(experiment.model, "attention", None))):
        if isinstance(attention, Attention) and attention.computed_function != "softmax":
            name = experiment.entry_of(attention).name
            faults.append(
                f"{program} has softmax attention, and model.attention = {name!r} does not declare "
                'computed_function = "softmax"'
            )
    options = model_options(experiment)
    for key, values in allowed.items():
        for written, found in values_at(options, key):
            if found not in values:
                expected = " or ".join("unset" if value is None else repr(value) for value in values)
                faults.append(f"{program} cannot express model.{written} = {found!r}; expected {expected}")
    for slot, count in different_parts(options, experiment.model).items():
        if not any(f" model.{slot}." in fault for fault in faults):
            faults.append(f"{program} has one {slot} for all layers, and model.{slot} is a list of {count}")
    if faults:
        raise KitError(*faults)


def weights_to_export(weights: Mapping[str, Tensor], vocab_size: int, tied: bool) -> dict[str, Tensor]:
    """Weights by the names of GPT-2, without the padding of the vocabulary.

    Raises KitError if the format has one matrix for embedding and head (`tied`), but the model has two.
    """
    if tied and not equal_tensors(weights[HEAD], weights[EMBEDDING]):
        raise KitError("the model's lm_head.weight differs from its wte.weight, so they cannot be exported as tied")
    return {
        exported_name(name): (value[:vocab_size] if name in VOCABULARY_MATRICES else value).contiguous()
        for name, value in weights.items()
    }
