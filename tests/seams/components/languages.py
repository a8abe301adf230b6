"""Datasets of several languages, of which small ones are sampled more often than their size suggests.

The windows of a language are in proportion to its size to the power `alpha`: with 1 to the size, and near 0 all
languages have equally many.

Source: Conneau & Lample 2019, arXiv:1901.07291, section 3.1, with an exponent of 0.5; Conneau et al. 2020,
arXiv:1911.02116, with 0.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import chain

from nanogpt_kit.api import Dataset, Document, Field


class Languages(Dataset):
    language: tuple[Dataset, ...] = Field(min_length=1, description="datasets, one for each language")
    alpha: float = Field(0.3, gt=0, le=1, description="exponent of the sizes of the languages")

    @property
    def sources(self) -> dict[str, Dataset]:
        return {f"language-{index}": dataset for index, dataset in enumerate(self.language)}

    def proportions(self, windows: Mapping[str, int]) -> dict[str, float]:
        return {name: count**self.alpha for name, count in windows.items()}

    def documents(self, split: str) -> Iterator[Document]:
        return chain.from_iterable(dataset.documents(split) for dataset in self.language)

    def fingerprint(self) -> str:
        return sha256("".join(dataset.fingerprint() for dataset in self.language).encode()).hexdigest()
