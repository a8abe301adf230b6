"""The tensors of Llama, by the names of `gpt`, which has queries, keys and values in one.

Source: transformers' LlamaForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.api import KitError, read_json, read_safetensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # fewer bits need scales
Q, KV, C, INNER = "queries", "keys", "features", "inner features"  # outputs of the layers
LAYER = {  # of `h.0`: the layers of `model.layers.0` that it consists of with their outputs, and its inputs
    "attn.c_attn": ({"self_attn.q_proj": Q, "self_attn.k_proj": KV, "self_attn.v_proj": KV}, C),
    "attn.c_proj": ({"self_attn.o_proj": C}, Q),
    "mlp.c_gate": ({"mlp.gate_proj": INNER}, C),
    "mlp.c_fc": ({"mlp.up_proj": INNER}, C),
    "mlp.c_proj": ({"mlp.down_proj": C}, INNER),
}
NORMS = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}
Parts = dict[str, tuple[int, ...]]  # names of Llama's tensors with their shapes


def sizes_of(config: Mapping[str, Any]) -> dict[str, int]:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    keys = config["num_key_value_heads"] * head_dim
    return {Q: config["hidden_size"], KV: keys, C: config["hidden_size"], INNER: config["intermediate_size"]}


def tensors_of(config: Mapping[str, Any], biases: bool) -> Iterator[tuple[str, Parts]]:
    """Each tensor of `gpt`, and those of Llama that it consists of, one below the other."""
    sizes, rows, tied = sizes_of(config), config["vocab_size"], config["tie_word_embeddings"]
    yield EMBEDDING, {"model.embed_tokens.weight": (rows, sizes[C])}
    yield "ln_f.weight", {"model.norm.weight": (sizes[C],)}
    if not tied:
        yield HEAD, {HEAD: (rows, sizes[C])}
    for layer in range(config["num_hidden_layers"]):
        theirs = f"model.layers.{layer}."
        for ours, name in NORMS.items():
            yield f"h.{layer}.{ours}.weight", {f"{theirs}{name}.weight": (sizes[C],)}
        for ours, (outputs, inputs) in LAYER.items():
            weights = {f"{theirs}{name}.weight": (sizes[out], sizes[inputs]) for name, out in outputs.items()}
            yield f"h.{layer}.{ours}.weight", dict(weights)
            if biases:
                yield f"h.{layer}.{ours}.bias", {f"{theirs}{name}.bias": (sizes[out],) for name, out in outputs.items()}


def has_bias(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a layer of Llama has the bias of that name."""
    if ".mlp." in name:
        return bool(config["mlp_bias"])
    if config["model_type"] == "qwen2":
        return ".o_proj." not in name
    return bool(config["attention_bias"])


def join(theirs: dict[str, Tensor], config: Mapping[str, Any], biases: bool, origin: Path) -> dict[str, Tensor]:
    """The weights by the names of `gpt`; biases that Llama does not have are zeros. Empties `theirs`.

    Raises KitError with each tensor that is missing, has another shape or type, or has no place.
    """
    faults, weights = [], {}
    for ours, parts in tensors_of(config, biases):
        found = []
        for name, shape in parts.items():
            value = theirs.pop(name, None)
            if value is None and name.endswith(".bias") and not has_bias(name, config):
                value = torch.zeros(shape)
            if value is None:
                faults.append(f"{name} is missing")
            elif value.shape != shape:
                faults.append(f"{name} is {list(value.shape)}; expected {list(shape)} by config.json")
            elif value.dtype not in FLOATS:
                faults.append(f"{name} is {value.dtype}; expected {', '.join(map(str, FLOATS))}")
            else:
                found.append(value)
        if len(found) == len(parts):
            weights[ours] = torch.cat(found)
    theirs = without_implied(theirs, config, weights)
    faults += [f"{name} is not a tensor of a {config['model_type']} with this config.json" for name in sorted(theirs)]
    if faults:
        more = f"and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise KitError(f"{origin}: {'; '.join([*faults[:8], *filter(None, [more])])}")
    return weights


def without_implied(
    theirs: dict[str, Tensor], config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The remaining tensors, without a tied head that repeats the embedding, and speeds of positions in old files."""
    rest = dict(theirs)
    head, embedding = rest.get(HEAD), weights.get(EMBEDDING)
    if config["tie_word_embeddings"] and head is not None and embedding is not None and torch.equal(head, embedding):
        del rest[HEAD]
    size, theta = config["hidden_size"] // config["num_attention_heads"], config["rope_parameters"]["rope_theta"]
    if config["rope_parameters"]["rope_type"] == "default":
        speeds = theta ** -(torch.arange(0, size, 2) / size)
        for name in [name for name in rest if name.endswith(".self_attn.rotary_emb.inv_freq")]:
            if rest[name].shape == speeds.shape and torch.allclose(rest[name].float(), speeds, rtol=1e-2):
                del rest[name]
    return rest


def split(weights: Mapping[str, Tensor], config: Mapping[str, Any], biases: bool) -> dict[str, Tensor]:
    """The weights by the names of Llama; the padding of the vocabulary is left out."""
    result: dict[str, Tensor] = {}
    for ours, parts in tensors_of(config, biases):
        rows = [shape[0] for shape in parts.values()]
        pieces = weights[ours][: sum(rows)].split(rows)
        result |= {name: piece.contiguous() for name, piece in zip(parts, pieces, strict=True)}
    return result


def read_weights(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """All tensors of model.safetensors, or of the files that its index names, and the files."""
    files = weight_files(folder)
    weights: dict[str, Tensor] = {}
    for file in files:
        found = read_safetensors(file)
        twice = found.keys() & weights.keys()
        if twice:
            raise KitError(f"{file} contains {min(twice)}, which another file of the model also has")
        weights |= found
    return weights, files


def weight_files(folder: Path) -> list[Path]:
    """Raises KitError where there are none, or where an index names files that are missing or outside of the folder."""
    if (folder / "adapter_config.json").exists():
        raise KitError(f"{folder} has an adapter (adapter_config.json), which is not applied; merge it first")
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        pickles = " (its .bin files are pickles, which can run code)" if list(folder.glob("*.bin")) else ""
        raise KitError(f"{folder} has no {WEIGHTS} or {INDEX}{pickles}; save_pretrained of transformers writes one")
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KitError(f"{index} cannot be read: {error!r}") from None
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside or not names:
        raise KitError(f"{index} names {outside[:1] or 'no file'}; expected names of files in the same folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise KitError(f"{folder} lacks {', '.join(missing)}, which its {INDEX} names")
    return [folder / name for name in names]
