"""Writing models of GPT-2's shape: which options of `gpt` another program can express, and its names of tensors."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nanogpt_kit.api import ExportedModel, KitError
from nanogpt_kit.components.format.gpt2_shape import EMBEDDING, HEAD, POSITIONS, TOKEN_WEIGHTS, equal_tensors

logger = logging.getLogger(__name__)

GPT2_OPTIONS: Mapping[str, tuple[Any, ...] | None] = {  # of [model]: the possible values; None: any
    **dict.fromkeys(("n_layer", "n_head", "n_embd", "block_size", "dropout", "bias", "weight_tying")),
    # not part of the function from tokens to logits
    **dict.fromkeys(("vocab_multiple", "document_mask", "init_from", "bf16_residual")),
    **dict.fromkeys(("norm.eps", "norm.bias", "mlp.approximate", "mlp.width")),
    "use": ("gpt",),
    "qk_norm": (False,),
    "mixer.use": ("softmax",),
    "position.use": ("learned",),
    "norm.use": ("layernorm",),
    "mlp.use": ("gelu",),
}
TENSOR = re.compile(
    r"(wte|lm_head|position\.wpe)\.weight|ln_f\.(weight|bias)|"
    r"h\.\d+\.(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.(weight|bias)"
)


def check_gpt2_model(
    exported: ExportedModel, program: str, restricted: Mapping[str, tuple[Any, ...] | None] | None = None
) -> None:
    """Raises KitError with everything about the model that `program` cannot express.

    `restricted` are its own values for some of GPT2_OPTIONS.
    """
    model = exported.experiment["model"]
    exported.check_options(program, {**GPT2_OPTIONS, "n_kv_head": (None, model.get("n_head")), **(restricted or {})})
    unknown = [name for name in exported.inference_weights() if not TENSOR.fullmatch(name)]
    if unknown:
        raise KitError(*(f"{program} has no tensor for {name}" for name in unknown))
    if model["weight_tying"] and not equal_tensors(exported.weights[HEAD], exported.weights[EMBEDDING]):
        raise KitError("the model's lm_head.weight differs from its wte.weight, so they cannot be exported as tied")


def tensors_to_export(exported: ExportedModel) -> dict[str, Tensor]:
    """The weights by the names of GPT-2, without the padding of the vocabulary."""
    rows, weights = exported.encoder.vocab_size, exported.inference_weights()
    left_out = [name for name in exported.weights if name not in weights]
    if left_out:
        logger.info("left out %s: weights of model.loss, which only training uses", ", ".join(left_out))
    return {
        exported_name(name): (value[:rows] if name in TOKEN_WEIGHTS else value).contiguous()
        for name, value in weights.items()
    }


def exported_name(name: str) -> str:
    if name == HEAD:
        return name
    return "transformer." + ("wpe.weight" if name == POSITIONS else name)
