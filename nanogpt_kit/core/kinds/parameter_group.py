"""Options of some of the parameters: `[[optimizer.group]]`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from nanogpt_kit.core.errors import option_error
from nanogpt_kit.core.options import Options

VALUES = ("lr", "weight_decay", "betas", "momentum")  # keys of a torch optimizer's groups
Decay = Annotated[float, Field(ge=0, lt=1)]


class ParameterGroup(Options):
    """Parameters of the model, and what the optimizer does otherwise with them. A parameter is in the first that fits.

    What is left out stays as the optimizer has it for these parameters.
    """

    match: str = Field(
        min_length=1,
        description="role (embedding, head, matrix, vector), or regular expression: searched in names, or a whole role",
    )
    lr: float | None = Field(None, gt=0, description="peak learning rate of these parameters")
    weight_decay: float | None = Field(None, ge=0, description="weight decay of these parameters, vectors included")
    betas: tuple[Decay, ...] | None = Field(
        None, min_length=1, description="decay rates of these parameters, as many as the optimizer has"
    )
    momentum: Decay | None = Field(None, description="momentum of these parameters")
    freeze: bool = Field(False, description="parameters that stay as they are, without gradient and optimizer state")

    @field_validator("match")
    @classmethod
    def _check_pattern(cls, match: str) -> str:
        try:
            re.compile(match)
        except re.error as error:
            raise option_error("match", f"{match!r} is not a regular expression: {error}") from None
        return match

    @model_validator(mode="after")
    def _check_frozen(self) -> ParameterGroup:
        if self.freeze and self.values():
            keys = ", ".join(self.values())
            reason = f"frozen parameters are not updated, so they have no {keys}; leave out one or the other"
            raise option_error("freeze", reason, *self.values())
        return self

    def values(self) -> dict[str, Any]:
        """The options of the torch optimizer's groups that are set here."""
        options = {name: getattr(self, name) for name in VALUES}
        return {name: value for name, value in options.items() if value is not None}
