"""What a model from elsewhere becomes here: options of [model], weights by our names, and its vocabulary."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Attention

logger = logging.getLogger(__name__)

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
WIDE = EMBEDDING, HEAD  # one row a token
POSITIONS = "position.wpe.weight"  # `wpe.weight` elsewhere
LARGEST = 2**31 - 1  # of any size; what is larger has no memory
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # fewer bits need scales to be numbers
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # ddp, compile, fsdp
OUTER = {"transformer", "model"}  # modules that hold the whole network
BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # what attention without a fused kernel masks with


@dataclass(frozen=True)
class Foreign:
    """A GPT-2-shaped model as it was read."""

    path: Path  # the file or folder that it came from
    name: str  # for its run
    options: Mapping[str, Any]  # of [model]
    weights: Mapping[str, Tensor]  # by our names; as many rows for tokens as there were
    files: tuple[Path, ...]  # that were read
    tokenizer: Mapping[str, Any] = field(default_factory=lambda: {"use": "gpt2"})  # of [tokenizer]
    state: Mapping[str, Any] | None = None  # what the tokenizer had learnt; None where its options say it all

    def __post_init__(self) -> None:
        """Raises KitError for what no model of this shape can hold, before anything is allocated."""
        for name, value in self.weights.items():
            if value.dtype not in FLOATS:
                raise KitError(f"{self.path}: {name} is {value.dtype}; expected {', '.join(map(str, FLOATS))}")
        if EMBEDDING not in self.weights or self.weights[EMBEDDING].ndim != 2:
            raise KitError(f"{self.path} holds no GPT-2: it has no matrix called wte.weight")
        layers = {name.split(".")[1] for name in self.weights if name.startswith("h.")}
        if self.options["n_layer"] != len(layers):
            raise KitError(f"{self.path} says n_layer = {self.options['n_layer']} and holds {len(layers)} layers")

    @property
    def vocab_size(self) -> int:
        return self.weights[EMBEDDING].size(0)


def by_our_names(weights: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Raises KitError for what is not a tensor with a name, and where two tensors that differ have one name here."""
    found: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            raise KitError(f"{path} is not a GPT-2: its tensors do not have names")
        if not is_plain(value):
            raise KitError(f"{path}: {shown(name)} is not a plain tensor")
        ours = our_name(name)
        if ours in found and not equal(found[ours], value):
            raise KitError(f"{path}: {theirs[ours]} and {name} differ, and both are {ours} in the model")
        found.setdefault(ours, value)
        theirs.setdefault(ours, name)
    return found


def our_name(name: str) -> str:
    """transformer.wpe.weight -> position.wpe.weight, without what wrappers of torch put before and between."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts and parts[0] in OUTER:
        del parts[0]
    ours = ".".join(parts)
    return POSITIONS if ours == "wpe.weight" else ours


def is_plain(value: Any) -> bool:
    """Whether it is numbers in memory and nothing else."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def without_buffers(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Leaves out the buffers of masked attention. Raises KitError for one that is not the causal mask."""
    rest = {}
    for name, value in weights.items():
        kind = BUFFER.fullmatch(name)
        if kind is None:
            rest[name] = value
        elif not (is_causal(value) if kind[1] == "bias" else is_minus_infinity(value)):
            raise KitError(f"{path}: {name} is not the causal mask of GPT-2; no part of the model can hold it")
    return rest


def is_causal(mask: Tensor) -> bool:
    """(1, 1, T, T), ones at and below the diagonal and zeros above."""
    size = mask.size(-1) if mask.ndim == 4 else 0
    return mask.shape == (1, 1, size, size) and equal(mask[0, 0], torch.ones(size, size, dtype=torch.bool).tril())


def is_minus_infinity(value: Tensor) -> bool:
    """What transformers has written for scores that count nothing: -1e4, which is -9984 in bfloat16, later -1e9."""
    return value.numel() == 1 and value.is_floating_point() and value.item() <= -9984


def is_tied(weights: dict[str, Tensor], path: Path, says: str) -> bool:
    """Whether the head is the embedding, as the source `says`. One that is the embedding's copy is taken out.

    As transformers does, it believes the numbers: two matrices that differ are two, and one alone is both.
    """
    if EMBEDDING not in weights and HEAD in weights:
        weights[EMBEDDING] = weights[HEAD]
    if HEAD not in weights or equal(weights[HEAD], weights[EMBEDDING]):
        weights.pop(HEAD, None)
        return True
    logger.warning(
        "%s: %s, but its lm_head.weight is not its wte.weight; imported as model.weight_tying = false", path, says
    )
    return False


def check_bytes(weights: Iterable[Any], path: Path) -> None:
    """Raises KitError where tensors hold more numbers than their file: a few bytes can stand for any number of them."""
    tensors = [value for value in weights if isinstance(value, Tensor)]
    total, room = sum(value.numel() * value.element_size() for value in tensors), path.stat().st_size
    if total > 2 * room:  # a tied matrix has two names
        raise KitError(f"{path}: its tensors would take {total:,} bytes, and the file has {room:,}")


def check_number(value: object, least: float, most: float, whole: bool = False) -> str | None:
    """What a number of a configuration would have to be; None where it is."""
    if not isinstance(value, bool) and isinstance(value, int if whole else (int, float)) and least <= value <= most:
        return None
    return f"expected {'an integer' if whole else 'a number'} from {least:g} to {most:g}"


def shown(value: object) -> str:
    """A value of a strange file, at a length that fits a message."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "an integer of more than 30 digits"
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text + "..." * (isinstance(value, str) and len(value) > 60)


def their_name(name: str) -> str:
    if name == HEAD:
        return name
    return "transformer." + ("wpe.weight" if name == POSITIONS else name)


def check_shaped(experiment: Experiment, allowed: Mapping[str, tuple[Any, ...]], what: str) -> None:
    """Raises KitError with each option of [model] that `what` cannot express; `allowed` is by dotted key."""
    faults = []
    attention = getattr(experiment.model, "attention", None)
    if isinstance(attention, Attention) and attention.computes != "softmax":
        name = experiment.entry_of(attention).name
        faults.append(f"{what} has softmax attention only, and model.attention = {name!r} may compute something else")
    for key, values in allowed.items():
        found: Any = experiment.resolved()["model"]
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found not in values:
            expected = " or ".join("left out" if value is None else repr(value) for value in values)
            faults.append(f"{what} has no model.{key} = {found!r}; it would have to be {expected}")
    if faults:
        raise KitError(*faults)


def exported(weights: Mapping[str, Tensor], vocab_size: int, tied: bool) -> dict[str, Tensor]:
    """Weights without the padding of the vocabulary, by their names.

    Raises KitError where the format knows one matrix for embedding and head (`tied`), and the model has two.
    """
    if tied and not equal(weights[HEAD], weights[EMBEDDING]):
        raise KitError("the model's lm_head.weight is not its wte.weight, so it cannot be exported as tied")
    return {
        their_name(name): (value[:vocab_size] if name in WIDE else value).contiguous()
        for name, value in weights.items()
    }
