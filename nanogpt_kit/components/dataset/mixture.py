"""Several datasets in chosen proportions, which hold after every window; a window has tokens of one part.

The parts are datasets of text, or all of them datasets of tokens. Validation measures each part alone and all together.
The proportions are not part of the prepared data, so that changing them requires no new preparation.

Source: Tijdeman 1980, "The Chairman Assignment Problem", for the order of the parts; Brown et al. 2020,
arXiv:2005.14165, table 2.2, for weights that are not proportional to size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np

from nanogpt_kit.api import Dataset, Document, Field, KitError, Options, model_validator, option_error

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # also the last part of the names of metrics


class Part(Options):
    """A table [[dataset.part]]."""

    dataset: Dataset = Field(description="dataset that the part is read from")
    name: str | None = Field(
        None,
        pattern=NAME,
        max_length=100,
        description="name of the part in metrics; omitted: that of its dataset's component",
    )
    weight: float | None = Field(
        None, ge=0, description="weight of the part, whose fraction of the training windows is weight / sum of weights"
    )
    repeats: float | None = Field(
        None, gt=0, description="passes over the part in one epoch of the mixture, in place of a weight; omitted: 1"
    )
    max_passes: float | None = Field(
        None, gt=0, description="largest number of passes over the part in a run; a longer run is refused"
    )


class Mixture(Dataset):
    proportion_options: ClassVar[frozenset[str]] = frozenset({"name", "weight", "repeats", "max_passes"})
    part: tuple[Part, ...] = Field(min_length=1, description="parts, each with a dataset")

    @model_validator(mode="before")
    @classmethod
    def _name_parts(cls, values: Any) -> Any:
        """Each part without a name gets that of its component; of several parts, each after the first is numbered."""
        parts = values.get("part") if isinstance(values, dict) else None
        if not isinstance(parts, list | tuple):
            return values
        tables = [dict(part) if isinstance(part, dict | Part) else part for part in parts]
        taken = {table["name"] for table in tables if isinstance(table, dict) and isinstance(table.get("name"), str)}
        for table in tables:
            if isinstance(table, dict) and table.get("name") is None and (base := component_name(table.get("dataset"))):
                names = chain([base], (f"{base}-{number}" for number in range(2, len(tables) + 2)))
                table["name"] = next(name for name in names if name not in taken)
                taken.add(table["name"])
        return {**values, "part": tables}

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        weights = [part.weight for part in self.part]
        for index, part in enumerate(self.part):
            if part.dataset.sources:
                message = f"the dataset of part {part.name!r} is made of parts itself; list its parts in place of it"
                raise option_error(f"part.{index}.dataset", message)
            if part.weight is None and any(weight is not None for weight in weights):
                other = next(i for i, weight in enumerate(weights) if weight is not None)
                message = f"part.{other} has a weight and part.{index} has none; give a weight to every part or to none"
                raise option_error(f"part.{index}", message)
            if part.weight is not None and part.repeats is not None:
                message = f"part.{index} has a weight ({part.weight:g}) and repeats ({part.repeats:g})"
                rule = "with weights the size of a part does not matter, with repeats it does"
                raise option_error(f"part.{index}.repeats", f"{message}; remove one: {rule}", f"part.{index}.weight")
        if all(weight == 0 for weight in weights):
            raise option_error("part", "the weights of all parts are 0; at least one should be above 0")
        for name, count in Counter(part.name for part in self.part).items():
            if count > 1:
                index = max(i for i, part in enumerate(self.part) if part.name == name)
                raise option_error(f"part.{index}.name", f"{count} parts have the name {name!r}; each needs its own")
        return self

    @property
    def sources(self) -> dict[str, Dataset]:
        return {str(part.name): part.dataset for part in self.part}

    def proportions(self, windows: Mapping[str, int]) -> dict[str, float | Fraction]:
        """The weights; without any, as many windows as one epoch has of each part."""
        return {
            str(part.name): part.weight
            if part.weight is not None
            else windows[str(part.name)] * Fraction(str(part.repeats or 1))
            for part in self.part
        }

    def pass_faults(self, taken: Mapping[str, int], windows: Mapping[str, int]) -> dict[str, str]:
        faults = {}
        for index, part in enumerate(self.part):
            n, one_pass = taken[str(part.name)], windows[str(part.name)]
            if part.max_passes is not None and n > part.max_passes * one_pass:
                taken_text = f"the run takes {n:,} windows from {part.name!r}, which has {one_pass:,}"
                allowed = f"max_passes = {part.max_passes:g} allows {int(part.max_passes * one_pass):,} windows"
                faults[f"part.{index}.max_passes"] = f"{taken_text}: {n / one_pass:.3g} passes; {allowed}"
        return faults

    @property
    def splits(self) -> tuple[str, ...]:
        """`test` only where every part has it: else it would measure something other than what is trained on."""
        return ("train", "val", *(["test"] if all("test" in part.dataset.splits for part in self.part) else []))

    def documents(self, split: str) -> Iterator[Document]:
        return chain.from_iterable(part.dataset.documents(split) for part in self.part)

    def documents_with_split(self) -> Iterator[tuple[str, Document]]:
        for part in self.part:
            for split, document in part.dataset.documents_with_split():
                if split in self.splits:
                    yield split, document

    def fingerprint(self) -> str:
        """Of the contents of the parts in their order, and not of their names and weights."""
        digest = sha256()
        for part in self.part:
            with part_faults(part):
                digest.update(f"{type(part.dataset).__qualname__} {part.dataset.fingerprint()}\n".encode())
        return digest.hexdigest()

    def check_source(self) -> None:
        self._check_tokens()

    def text_bytes(self) -> int | None:
        sizes = [part.dataset.text_bytes() for part in self.part]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def tokens(self, split: str) -> Iterator[np.ndarray] | None:
        chunks = [part.dataset.tokens(split) for part in self.part]
        return None if None in chunks else chain.from_iterable(some or () for some in chunks)

    def token_count(self) -> int | None:
        counts = [part.dataset.token_count() for part in self.part]
        return None if None in counts else sum(count or 0 for count in counts)

    def token_location(self, split: str, index: int) -> str:
        for part in self.part:
            count = sum(map(len, part.dataset.tokens(split) or ()))
            if index < count:
                return part.dataset.token_location(split, index)
            index -= count
        return super().token_location(split, index)

    def vocabulary(self) -> Mapping[str, Any] | None:
        return self.part[0].dataset.vocabulary()

    def _check_tokens(self) -> None:
        """Raises KitError where some parts are text and others tokens, or tokens of other vocabularies."""
        first = self.part[0]
        is_tokens = {part.name: part.dataset.tokens("train") is not None for part in self.part}
        if len(set(is_tokens.values())) > 1:
            text, tokens = (next(name for name in is_tokens if is_tokens[name] is kind) for kind in (False, True))
            other = max(list(is_tokens).index(name) for name in (text, tokens))
            remedy = "give the text of both, or the tokens of both"
            message = f"{text!r} is text, and {tokens!r} is tokens already; {remedy}"
            raise KitError(f"dataset.part.{other}.dataset.use: {message}")
        for index, part in enumerate(self.part):
            if part.dataset.vocabulary() != first.dataset.vocabulary():
                both = f"{first.name!r} and {part.name!r} come with different vocabularies"
                raise KitError(f"dataset.part.{index}.dataset.use: {both}; make both with the same tokenizer")


def component_name(dataset: Any) -> str | None:
    """The name of the component in a slot, as part of a name: that of a distribution before it is left out."""
    if isinstance(dataset, Dataset):
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(dataset).__name__).lower()
    use = dataset.get("use") if isinstance(dataset, dict) else dataset
    return use.rpartition("/")[2] if isinstance(use, str) else None


@contextmanager
def part_faults(part: Part) -> Iterator[None]:
    """Faults within name the part."""
    try:
        yield
    except KitError as error:
        faults = [replace(fault, message=f"part {part.name!r}: {fault.message}") for fault in error.faults]
        raise KitError(*faults) from error
