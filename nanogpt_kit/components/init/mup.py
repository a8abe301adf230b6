"""Maximal update parametrization: a learning rate that is right at one width is right at every other one.

At `base_width` it is gpt2. In a wider model matrices begin smaller and learn more slowly, logits are multiplied by
base_width / n_embd, and attention scores fall as 1 / D instead of 1 / sqrt(D), D the size of a head.

Source: Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466, tables 3 and 8, in the form for tied embeddings; its
rule for the steps of any optimizer: Yang et al. 2023, arXiv:2310.17813.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import ValidationError
from torch import nn

from nanogpt_kit.api import Field, Init, KitError, Model, Multipliers, ParameterShape, option_error
from nanogpt_kit.components.init.normal_weights import draw_normal_weights

DIGITS = 12  # of a multiplier, so that factors that differ by rounding do not split a group


class MuP(Init):
    base_width: int = Field(ge=1, le=2**20, description="n_embd of the model whose learning rate was tuned")
    base_n_head: int | None = Field(None, ge=1, description="n_head of that model; omitted: as in this model")
    std: float = Field(0.02, gt=0, description="standard deviation of embeddings, and of matrices at base_width")

    def apply(self, model: nn.Module, shapes: Mapping[str, ParameterShape]) -> None:
        draw_normal_weights(model, lambda name: self.std * self.std_multiplier(shapes[name]))

    def std_multiplier(self, shape: ParameterShape) -> float:
        if shape.role != "matrix":
            return 1.0
        ratio = shape.base_fan_in / shape.fan_in
        is_output = shape.fan_out == shape.base_fan_out  # such as the weight of a router, which has a row per expert
        return ratio if is_output else math.sqrt(ratio)

    def lr_multiplier(self, shape: ParameterShape) -> float:
        """Such that one step changes features as much as in the base model.

        A change of spectral norm sqrt(fan_out / fan_in) does that; logits are multiplied by base_fan_in / fan_in.
        """
        if shape.step_growth is None:
            message = "mup requires an optimizer that has a step_norm: its steps must not depend on the gradients' size"
            raise KitError(f"{message}; choose adamw or muon, or another init")
        width = shape.fan_in / shape.base_fan_in
        wanted = shape.fan_out / shape.base_fan_out / width  # squared
        logits = width if shape.role == "head" else 1.0
        return float(f"{math.sqrt(wanted) * logits / shape.step_growth:.{DIGITS}g}")

    def multipliers(self, model: Model) -> Multipliers:
        base, here = vars(self.base_model(model)), vars(model)
        queries = math.sqrt(head_dim(base) / head_dim(here)) if "n_head" in here else 1.0
        return Multipliers(queries=queries, logits=self.base_width / here["n_embd"])

    def base_model(self, model: Model) -> Model:
        if not hasattr(model, "n_embd"):
            raise option_error(
                "init.use", "mup requires a model with n_embd, its width; choose another init", "model.use"
            )
        written = {name: getattr(model, name) for name in model.model_fields_set}  # a model may refuse others
        changed = {"n_embd": self.base_width, **self.base_heads(model)}
        try:
            return type(model).model_validate({**written, **changed})
        except ValidationError as error:
            reasons = "; ".join(one["msg"] for one in error.errors(include_url=False))
            message = f"there is no such model of base_width {self.base_width}: {reasons}"
            raise option_error("init.base_width", message) from None

    def base_heads(self, model: Model) -> dict[str, int]:
        """The options of the base model's heads, with as many heads for each key head as in `model`."""
        n_head, n_kv_head = getattr(model, "n_head", None), getattr(model, "n_kv_head", None)
        if n_head is None:
            return {}
        heads, key = (self.base_n_head, "init.base_n_head") if self.base_n_head else (n_head, "model.n_head")
        if self.base_width % heads:
            nearest = max(1, round(self.base_width / heads)) * heads
            message = f"init.base_width ({self.base_width}) should be a multiple of {key} ({heads}); the nearest is"
            other = "" if self.base_n_head else ", or set init.base_n_head to the n_head of the model of base_width"
            raise option_error("init.base_width", f"{message} {nearest}{other}", key)
        sharing = 1 if n_kv_head is None else n_head // n_kv_head
        if heads % sharing:
            message = f"init.base_n_head ({heads}) should be a multiple of model.n_head / model.n_kv_head ({sharing})"
            raise option_error("init.base_n_head", message, "model.n_kv_head")
        return {"n_head": heads} | ({} if n_kv_head is None else {"n_kv_head": heads // sharing})


def head_dim(options: dict[str, int]) -> float:
    """Features of a head of a model."""
    return options["n_embd"] / options["n_head"]
