"""Uniform weights; embeddings learn more slowly.

Change what `apply` draws, by `shapes[name]`: role, fans, layer. Source: the uniform weights of Glorot & Bengio 2010,
"Understanding the difficulty of training deep feedforward neural networks", with one bound for all.
"""

from collections.abc import Mapping

from torch import nn

from nanogpt_kit.api import Field, Init, ParameterShape


class UniformInit(Init):
    bound: float = Field(0.03, gt=0, description="largest absolute initial weight")

    def apply(self, model: nn.Module, shapes: Mapping[str, ParameterShape]) -> None:
        for name, parameter in model.named_parameters():
            if shapes[name].role != "vector":
                nn.init.uniform_(parameter, -self.bound, self.bound)
            elif name.endswith("bias"):  # gains stay as the norms have set them
                nn.init.zeros_(parameter)

    def lr_multiplier(self, shape: ParameterShape) -> float:
        return 0.5 if shape.role == "embedding" else 1.0
