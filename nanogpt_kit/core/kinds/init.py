"""Kind `init`: initial weights, learning rates by parameter, and constant factors in the forward pass."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nanogpt_kit.core.kinds.network import Model, Multipliers, Role
from nanogpt_kit.core.options import Component

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ParameterShape:
    """What an init knows of a parameter.

    A weight (out, in) multiplies `fan_in` numbers to give each of `fan_out`; convolutions count the kernel, as torch
    does, and other tensors of more than two dimensions are stacks of weights. An embedding looks one row up, and a
    vector scales or shifts, so their fan_in is 1 and their fan_out the size of the last dimension.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    layer: int | None  # the index of its block; None outside the blocks
    fan_in: int
    fan_out: int
    rows: tuple[int, ...] | None = None  # of a matrix that is several in one, such as q, k and v: the rows of each
    base_fan_in: int  # in `Init.base_model`, as the two below; without one, that of the model itself
    base_fan_out: int
    # `Optimizer.step_norm` here, divided by that in the base model; None where the optimizer does not know it
    step_growth: float | None = 1.0


class Init(Component):
    """Initial weights, a learning rate for each parameter, and constant factors in the forward pass.

    Weights of `nn.Linear` and `nn.Embedding` are the init's to set. Other parameters have values from the part that
    they belong to, such as gains of 1, which an init may change.
    """

    kind: ClassVar[str] = "init"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for method, arguments in SIGNATURES.items():
            check_signature(cls, method, arguments)

    @abstractmethod
    def apply(self, model: nn.Module, shapes: Mapping[str, ParameterShape]) -> None:
        """Sets parameters in place, drawing from torch's global generator; `shapes` are by name.

        The names are those of `model.named_parameters()`, which has a tied weight once, as an embedding.
        """

    def lr_multiplier(self, shape: ParameterShape) -> float:
        """The factor on the parameter's peak learning rate; 0 keeps the parameter as it is."""
        return 1.0

    def base_model(self, model: Model) -> Model | None:
        """The model whose shapes are the base shapes: `model` with other widths; None: there is none.

        Called when an experiment is read, as `multipliers` is: raise `option_error("init.NAME", ...)` where an option
        does not suit `model`.
        """
        return None

    def multipliers(self, model: Model) -> Multipliers:
        """Factors in the forward pass of `model`, which then has them wherever its weights are used."""
        return Multipliers()


SIGNATURES = {"apply": ("self", "model", "shapes"), "lr_multiplier": ("self", "shape")}


def check_signature(cls: type[Init], method: str, arguments: tuple[str, ...]) -> None:
    """Raises TypeError where a class has a method that cannot take these arguments, or that takes a role."""
    function = vars(cls).get(method)
    if not inspect.isfunction(function):
        return
    found = inspect.signature(function)
    try:
        found.bind(*arguments)
        fits = "role" not in found.parameters  # of the shape, which a method that compares it would not notice
    except TypeError:
        fits = False
    if not fits:
        raise TypeError(
            f"{cls.__name__}.{method}({', '.join(found.parameters)}) should be {method}({', '.join(arguments)}): see "
            f"api.Init and api.ParameterShape, which has the role, the layer and the fans of a parameter"
        )
