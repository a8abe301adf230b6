"""The encoder of an experiment: learnt from its text, or taken from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset, Encoder, TextContext, Tokenizer
from nanogpt_kit.corpus.hash_split import pieces
from nanogpt_kit.data.jobs import PIECE_CHARACTERS
from nanogpt_kit.data.record import TokenizerRecord, check
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.files import read_json
from nanogpt_kit.runs.folder import RunFolder


def taken_from(experiment: Experiment, resumed: RunFolder | None = None) -> dict[str, Any] | None:
    """The state of the tokenizer that the experiment takes from a run; None where it takes none.

    A run that is resumed has it in its own checkpoints, whatever became of the other one. Raises KitError where there
    is no such run, or where it has another tokenizer.
    """
    name = experiment.tokenizer.from_run
    if name is None:
        return None
    use = experiment.entry_of(experiment.tokenizer).name
    try:
        kept = resumed and kept_tokenizers(resumed)
        folder = resumed if resumed and kept else runs.find(name)
        kept = kept or kept_tokenizers(folder)
        if not kept:
            raise KitError(f"{folder} has no checkpoint yet")
        record = read_record(kept[-1])
        if record["use"] != use:
            raise KitError(f"{folder} has {record['use']} tokens, not {use}")
    except KitError as error:
        place = experiment.location(("tokenizer", "from_run"))
        raise KitError(*(one.under("tokenizer.from_run", place) for one in error.faults)) from None
    state: dict[str, Any] = record["state"]
    return state


def read_record(path: Path) -> dict[str, Any]:
    """The tokenizer that a checkpoint keeps. Raises KitError where the file has none."""
    try:
        record: dict[str, Any] = read_json(path)
        check(TokenizerRecord, record)
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path} is damaged, or not a record of a tokenizer: {error}") from None
    return record


def kept_tokenizers(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.glob("step-*/tokenizer.json"))


def make_encoder(tokenizer: Tokenizer, dataset: Dataset, taken: Mapping[str, Any] | None = None) -> Encoder:
    """Another run's, the one that made the dataset's tokens, or one of its own, which may learn from the text."""
    state = taken if taken is not None else dataset.vocabulary()
    if state is None:
        return tokenizer.build(TextContext(splits=dataset.splits, documents=lambda split: texts(dataset, split)))
    what = f"the vocabulary that comes with the tokens holds {', '.join(state)}"
    try:
        encoder = restored(tokenizer, state)
    except KitError as error:
        raise KitError(Fault(f"{what}; {error}", "tokenizer.use")) from error
    if encoder.state() != state:
        raise KitError(Fault(f"{what}, which {type(tokenizer).__name__} does not know", "tokenizer.use"))
    return encoder


def restored(tokenizer: Tokenizer, state: Mapping[str, Any]) -> Encoder:
    """The encoder of a state that others may have written. Raises KitError where it is not one."""
    try:
        return tokenizer.restore(state)
    except KitError:
        raise
    except Exception as error:  # whatever a tokenizer meets in a state that it did not write
        reason = f"{type(error).__name__}: {error}"
        raise KitError(f"{type(tokenizer).__name__} does not know such a vocabulary ({reason})") from error


def texts(dataset: Dataset, split: str) -> Iterator[str]:
    """The documents of a split, long ones in pieces. Raises KitError for half a surrogate pair."""
    for number, document in enumerate(dataset.documents(split)):
        for piece in pieces(document):
            utf8_bytes(piece, number, split)
            yield from in_words(piece)


def in_words(text: str) -> Iterator[str]:
    """A long text in pieces that begin at spaces: what learns from it may need a hundred times its room."""
    first = 0
    while len(text) - first > PIECE_CHARACTERS:
        last = text.rfind(" ", first + 1, first + PIECE_CHARACTERS)
        last = last if last > 0 else first + PIECE_CHARACTERS
        yield text[first:last]
        first = last
    yield text[first:] if first else text


def utf8_bytes(text: str, number: int, split: str) -> int:
    """How many. Raises KitError for half a surrogate pair, which JSON may hold and UTF-8 may not."""
    if text.isascii():  # known of each text, and true of most
        return len(text)
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        what = f"{text[error.start]!r} at character {error.start}: {error.reason}"
        raise KitError(f"document {number} of {split} is no Unicode text: {what}") from None
