"""Reading models of GPT-2's shape: the names of their tensors, and checks of what was read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt_kit.api import ImportedModel, KitError
from nanogpt_kit.components.format.foreign_values import format_value

logger = logging.getLogger(__name__)

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
TOKEN_WEIGHTS = EMBEDDING, HEAD  # one row per token
POSITIONS = "position.wpe.weight"  # `wpe.weight` in other programs
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # ddp, compile, fsdp
OUTER_MODULES = {"transformer", "model"}  # modules that contain the whole network
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # the causal mask of attention without a fused kernel


def gpt2_model(
    path: Path,
    options: Mapping[str, Any],
    vocab_size: int,
    weights: Mapping[str, Tensor],
    files: tuple[Path, ...],
    tokenizer: str = "gpt2",
    tokenizer_state: Mapping[str, Any] | None = None,
    tokenizer_remedy: str = "",
) -> ImportedModel:
    """What was read from `path`, with `options` of the model `gpt`. Raises KitError where the sizes disagree."""
    if EMBEDDING not in weights or weights[EMBEDDING].ndim != 2:
        raise KitError(f"{path} is not a GPT-2: it has no matrix named wte.weight")
    layers = {name.split(".")[1] for name in weights if name.startswith("h.")}
    if options["n_layer"] != len(layers):  # before anything of that size is built
        raise KitError(f"{path} has n_layer = {options['n_layer']}, but weights of {len(layers)} layers")
    rows = weights[EMBEDDING].size(0)
    if vocab_size != rows:
        raise KitError(f"{files[0]}: vocab_size is {vocab_size:,}, but wte.weight has {rows:,} rows")
    return ImportedModel(
        experiment={"model": {"use": "gpt", **options}, "tokenizer": {"use": tokenizer}},
        weights=weights,
        files=files,
        token_weights=TOKEN_WEIGHTS,
        tokenizer_state=tokenizer_state,
        tokenizer_remedy=tokenizer_remedy,
    )


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
