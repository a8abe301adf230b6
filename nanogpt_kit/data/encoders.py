"""The encoder of an experiment: learnt from its text, or restored from a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset, Encoder, TextContext, Tokenizer
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.corpus.hash_split import document_slices
from nanogpt_kit.data.chunks import PART_CHARACTERS
from nanogpt_kit.data.progress import ProgressReport


def make_encoder(tokenizer: Tokenizer, dataset: Dataset, state: Mapping[str, Any] | None = None) -> Encoder:
    """Restored from the `state` of a run or from the dataset's own vocabulary, else built, perhaps from the text."""
    if state is None:
        state = dataset.vocabulary()
        if state is None:
            return tokenizer.build(
                TextContext(splits=dataset.splits, documents=lambda split: texts_with_progress(dataset, split))
            )
    keys = f"the vocabulary that comes with the tokens consists of {', '.join(state)}"
    try:
        encoder = restore_encoder(tokenizer, state)
    except KitError as error:
        raise KitError(Fault(f"{keys}; {error}", "tokenizer.use")) from error
    if encoder.state() != state:
        raise KitError(Fault(f"{keys}, which {type(tokenizer).__name__} cannot use", "tokenizer.use"))
    return encoder


def restore_encoder(tokenizer: Tokenizer, state: Mapping[str, Any]) -> Encoder:
    """The encoder of a state that others may have written. Raises KitError where the tokenizer cannot use it."""
    try:
        return tokenizer.restore(state)
    except KitError:
        raise
    except Exception as error:  # whatever a tokenizer meets in a state that it did not write
        reason = f"{type(error).__name__}: {error}"
        raise KitError(f"{type(tokenizer).__name__} cannot use this vocabulary ({reason})") from error


@dataclass(frozen=True)
class EncoderRecipe:
    """Plain values from which another process makes the same encoder."""

    component_sources: tuple[tuple[Path, bytes], ...]  # local component files with their content
    tokenizer: dict[str, Any]  # the section [tokenizer]
    state: dict[str, Any]

    @classmethod
    def of(cls, experiment: Experiment, encoder: Encoder) -> Self:
        sources = tuple(experiment.component_sources.items())
        return cls(sources, experiment.resolved()["tokenizer"], encoder.state())

    def make(self) -> Encoder:
        registry = Registry.installed().with_sources(Component, self.component_sources)
        options = dict(self.tokenizer)
        tokenizer = registry.load(Tokenizer, options.pop("use"))
        return tokenizer.model_validate(options, context={"registry": registry}).restore(self.state)


def texts_of_split(dataset: Dataset, split: str) -> Iterator[str]:
    """The documents of a split, long ones in parts. Raises KitError for half a surrogate pair."""
    for index, document in enumerate(dataset.documents(split)):
        for text in document_slices(document):
            utf8_size(text, index, split)
            yield from split_at_spaces(text)


def texts_with_progress(dataset: Dataset, split: str) -> Iterator[str]:
    """The same; how much was read is shown meanwhile."""
    with ProgressReport(dataset.text_bytes(), f"reading {split} for the tokenizer") as progress:
        for text in texts_of_split(dataset, split):
            yield text
            progress.add(len(text), processed=True)


def split_at_spaces(text: str) -> Iterator[str]:
    """A long text in parts that begin at spaces: training a tokenizer may need a hundred times the memory of a part."""
    first = 0
    while len(text) - first > PART_CHARACTERS:
        last = text.rfind(" ", first + 1, first + PART_CHARACTERS)
        last = last if last > 0 else first + PART_CHARACTERS
        yield text[first:last]
        first = last
    yield text[first:] if first else text


def utf8_size(text: str, document_index: int, split: str) -> int:
    """Bytes of a text as UTF-8. Raises KitError for half a surrogate pair, which JSON may hold and UTF-8 may not."""
    if text.isascii():  # Python stores this with the text, and it holds for most
        return len(text)
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        invalid = f"{text[error.start]!r} at character {error.start}: {error.reason}"
        raise KitError(f"document {document_index} of {split} is not Unicode text: {invalid}") from None
