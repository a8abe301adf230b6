"""The tokenizers' suite fails where a tokenizer is broken: each break below is seen by the tests beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import PrivateAttr

from nanogpt_kit.api import Encoder, Field, TextContext, Tokenizer
from nanogpt_kit.core.kinds import Stream
from nanogpt_kit.testing.tokenizer import TokenizerConformance
from tests.testing.remedies import assert_fails


class Sound(Encoder):
    """Bytes, the first of which is learnt; those below break it."""

    vocab_size = 257
    eot_id: int | None = 256

    def __init__(self, first: int) -> None:
        self.first = first

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encoded(text) for text in texts]

    def encoded(self, text: str) -> Any:
        return (np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - self.first) % 256

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes((int(token) + self.first) % 256 for token in ids if token != 256)

    def last_safe_cut(self, text: str) -> int:
        return len(text)

    def state(self) -> dict[str, Any]:
        return {"first": self.first}


class OfClass(Tokenizer):
    size: int | None = Field(None, description="what it takes its vocabulary for")
    _encoder: Callable[[int], Encoder] = PrivateAttr()

    def build(self, ctx: TextContext) -> Encoder:
        return self._encoder(next(iter(ctx.documents("train"))).encode()[0])

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return self._encoder(state["first"])

    def known_vocab_size(self) -> int | None:
        return self.size


class DropsSpacesAtTheEnd(Sound):
    def encoded(self, text: str) -> Any:
        return super().encoded(text.rstrip())


class KnowsAsciiAlone(Sound):
    def encoded(self, text: str) -> Any:
        return super().encoded(text.encode("ascii", "replace").decode())


class DecodesTextOtherThanBytes(Sound):
    def decode(self, ids: Iterable[int]) -> str:
        return super().decode(ids).removesuffix(" ")


class GivesLists(Sound):
    def encoded(self, text: str) -> Any:
        return super().encoded(text).tolist()


class GivesFloats(Sound):
    def encoded(self, text: str) -> Any:
        return super().encoded(text).astype(np.float64)


class CountsTooFew(Sound):
    vocab_size = 200


class GivesATextForAll(Sound):
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encoded("".join(texts))]


class RemembersTheLastText(Sound):
    """A space joins it to the next one of a batch."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encoded(" " * (number > 0) + text) for number, text in enumerate(texts)]


class BeginsWithAMark(Sound):
    def encoded(self, text: str) -> Any:
        return np.concatenate([[0], super().encoded(text)])


class TakesTextForSpecialTokens(Sound):
    def encoded(self, text: str) -> Any:
        parts = [super(TakesTextForSpecialTokens, self).encoded(part) for part in text.split("<|endoftext|>")]
        end = np.array([256])
        return np.concatenate([parts[0], *itertools.chain(*([end, part] for part in parts[1:]))]).astype(np.int64)


class WritesTheEnd(Sound):
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(b"<end>" if token == 256 else super(WritesTheEnd, self).decode_bytes([token]) for token in ids)


class EndsBeyondItsVocabulary(Sound):
    eot_id = 257

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return super().decode_bytes(token for token in ids if token < 256)


class RaisesForTheEnd(Sound):
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes([*range(self.first, 256), *range(self.first)][token] for token in ids)


class SetsTokensOffBySpaces(Sound):
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b" ".join(super(SetsTokensOffBySpaces, self).decode_bytes([token]) for token in ids)


class ForgetsItsPrompt(Sound):
    """It decodes no space at the beginning of a text, and takes what follows a prompt for such a beginning."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return super().decode_bytes(ids).removeprefix(b" ")

    def stream(self, before: Sequence[int] = ()) -> Stream:
        return AtTheEnd(self)


class AtTheEnd:
    """The stream of an encoder that decodes whole texts alone."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.ids: list[int] = []

    def add(self, token: int) -> str:
        self.ids.append(token)
        return ""

    def rest(self) -> str:
        return self.encoder.decode(self.ids)


class LosesWhatWaits(Sound):
    def stream(self, before: Sequence[int] = ()) -> Stream:
        stream = super().stream(before)
        stream.rest = lambda: ""  # type: ignore[method-assign]
        return stream


class TakesListsAlone(Sound):
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return super().decode_bytes([ids[place] for place in range(len(ids))])  # type: ignore[index, arg-type]


class DecodesArraysInTheirOwnType(Sound):
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        if isinstance(ids, np.ndarray) and ids.dtype == np.uint32:
            return ids.tobytes()
        return super().decode_bytes(ids)


class FindsSpacesStrange(Sound):
    def count_unknown(self, text: str, ids: np.ndarray) -> int:
        return text.count(" ")


class PairsLetters(Sound):
    """Two at a time from the left, so that a cut at an odd place moves all pairs behind it."""

    vocab_size = 256 * 256 + 257

    def encoded(self, text: str) -> Any:
        raw = text.encode("utf-8")
        pairs = [257 + 256 * raw[at] + raw[at + 1] for at in range(0, len(raw) - 1, 2)]
        return np.array([*pairs, *raw[len(raw) & ~1 :]], dtype=np.int64)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(
            bytes(divmod(token - 257, 256)) if token > 256 else bytes([token] * (token < 256))
            for token in (int(token) for token in ids)
        )


class MisplacesItsTokens(Sound):
    def token_spans(self, text: str, ids: np.ndarray) -> np.ndarray:
        return super().token_spans(text, ids) + 1


class LeavesCharactersOut(Sound):
    def token_spans(self, text: str, ids: np.ndarray) -> np.ndarray:
        spans = super().token_spans(text, ids)
        return np.stack([spans[:, 0], spans[:, 0]], axis=1)


class NumbersItsTokens(Sound):
    def token_spans(self, text: str, ids: np.ndarray) -> np.ndarray:
        return np.arange(len(ids))


class CutsBeyondTheText(Sound):
    def last_safe_cut(self, text: str) -> int:
        return len(text) + 1


class LearnsAtRandom(Sound):
    made = itertools.count()

    def __init__(self, first: int) -> None:
        super().__init__(next(self.made) % 256)


class ForgetsWhatItLearnt(Sound):
    def state(self) -> dict[str, Any]:
        return {"first": 0}


class KeepsATuple(Sound):
    def state(self) -> dict[str, Any]:
        return {"first": self.first, "size": (257,)}


class KeepsAnArray(Sound):
    def state(self) -> dict[str, Any]:
        return {"first": np.int64(self.first)}


BACK, IDS = "test_text_comes_back", "test_ids_are_integers_in_the_vocabulary"
BATCH, EVERY = "test_texts_of_a_batch_are_independent", "test_every_id_can_be_decoded_token_by_token"
STATE, CUT = "test_it_is_restored_from_its_state_as_json", "test_a_text_can_be_cut_where_it_reports"
END, ITERABLE = "test_the_end_of_a_document_has_no_bytes", "test_ids_may_come_as_any_iterable"
PROMPT, LIBRARY = "test_a_text_follows_its_prompt", "test_decoding_is_that_of_its_library"
SPANS = "test_tokens_stand_for_characters_of_the_text"
SIZE = "test_the_vocabulary_has_the_announced_size"
BROKEN: dict[type[Sound], list[str]] = {
    DropsSpacesAtTheEnd: [BACK, SPANS],
    KnowsAsciiAlone: [BACK],
    DecodesTextOtherThanBytes: [BACK],
    GivesLists: [IDS],
    GivesFloats: [IDS],
    CountsTooFew: [IDS, END],
    GivesATextForAll: [BATCH],
    RemembersTheLastText: [BATCH],
    BeginsWithAMark: ["test_an_empty_text_has_no_tokens", BACK],
    TakesTextForSpecialTokens: ["test_no_text_ends_a_document", BACK],
    WritesTheEnd: [END],
    EndsBeyondItsVocabulary: [END],
    RaisesForTheEnd: [EVERY, END],
    SetsTokensOffBySpaces: [EVERY, BACK, LIBRARY],
    ForgetsItsPrompt: [PROMPT, LIBRARY],
    LosesWhatWaits: [EVERY],
    TakesListsAlone: [ITERABLE],
    DecodesArraysInTheirOwnType: [ITERABLE],
    FindsSpacesStrange: ["test_unknown_counts_what_is_lost"],
    PairsLetters: [CUT],
    MisplacesItsTokens: [SPANS],
    LeavesCharactersOut: [SPANS],
    NumbersItsTokens: [SPANS],
    CutsBeyondTheText: [CUT],
    LearnsAtRandom: ["test_training_is_deterministic", STATE],
    ForgetsWhatItLearnt: [STATE],
    KeepsATuple: [STATE],
    KeepsAnArray: [STATE],
}


def suite_of(encoder: Callable[[int], Encoder], **options: Any) -> Any:
    component = OfClass(**options)
    component._encoder = encoder
    return type("Suite", (TokenizerConformance,), {"component": component, "library": library, "examples": 50})()


def library(self: object, ids: list[int]) -> str:
    """What `Sound` decodes."""
    return bytes((token + ord("T")) % 256 for token in ids).decode("utf-8", "replace")


@pytest.mark.parametrize("encoder", BROKEN)
def test_a_broken_tokenizer_is_caught(encoder: type[Sound]) -> None:
    for test in BROKEN[encoder]:
        assert_fails(suite_of(encoder), test)


def test_a_wrong_size_is_caught() -> None:
    assert_fails(suite_of(Sound, size=256), SIZE)


def test_the_suite_passes_a_tokenizer_that_is_not_broken() -> None:
    own = {name for name in vars(TokenizerConformance) if name.startswith("test_")}
    assert own == {SIZE, *(test for tests in BROKEN.values() for test in tests)}, "each test catches something"
    for test in own:
        getattr(suite_of(Sound, size=257), test)()
