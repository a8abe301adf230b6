"""The suite for tokenizers: text is decoded as it was, ids stay in the vocabulary, the state survives JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from reprlib import repr
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_kit.core.kinds import Encoder, TextContext, Tokenizer
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.remedy import errors_as_failures
from nanogpt_kit.testing.tokenizer_texts import BLANKS, SPECIAL, STRANGE

ANY_ID = "a model may draw any id below vocab_size: return no bytes for those that stand for no text"
HOMOMORPHISM = (
    "decode_bytes must give for several tokens the bytes of each in turn; where they depend on the tokens around, "
    "override stream()"
)


class TokenizerConformance(ComponentConformance):
    """Subclass it with `component = MyTokenizer(...)`."""

    component: ClassVar[Tokenizer]
    texts: ClassVar[tuple[str, ...]] = (  # to train on: the first, third, ... are train, the others val
        "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n",
        "the slings and arrows of outrageous fortune, or to take arms against a sea of troubles",
        "It was the best of times, it was the worst of times; it's 1,234.5 \u2603 (or so).\r\n",
    )
    lossless: ClassVar[bool] = True  # whether decoding returns any text unchanged
    added: ClassVar[tuple[str, ...]] = ()  # added tokens, as text
    examples: ClassVar[int | None] = None  # texts that hypothesis tries in each test; None: as its profile says
    any_text: ClassVar[bool] = True  # whether it encodes all of Unicode; False: only characters of `texts`

    @property
    def context(self) -> TextContext:
        def documents(split: str) -> Iterator[str]:
            yield from self.texts[split == "val" :: 2]

        return TextContext(splits=("train", "val"), documents=documents)

    @functools.cached_property
    def encoder(self) -> Encoder:
        return self.component.build(self.context)

    def library(self, ids: list[int]) -> str | None:
        """The text that the underlying library decodes; None where there is none."""
        return None

    def text(self) -> st.SearchStrategy[str]:
        """Texts that it must encode."""
        if not self.any_text:
            return st.text(sorted(set("".join(self.texts))))
        words = sorted({word for text in self.texts for word in text.split()})
        unicode = st.text(st.characters(codec="utf-8"), max_size=8)  # all but halves of surrogate pairs
        parts = st.sampled_from((*SPECIAL, *self.added)), st.sampled_from(STRANGE), st.sampled_from(words), unicode
        return st.lists(st.one_of(parts)).map("".join)

    def check_examples(self, check: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
        """Runs a check on examples that are the same every time."""
        same = settings(
            max_examples=self.examples or settings().max_examples,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        same(given(*strategies)(check))()

    def ids(self, text: str) -> list[int]:
        (ids,) = self.encoder.encode_batch([text])
        return [int(token) for token in ids]

    def any_ids(self) -> st.SearchStrategy[list[int]]:
        """Ids of texts, and any that a model may draw."""
        size = self.encoder.vocab_size
        return st.one_of(self.text().map(self.ids), st.lists(st.integers(0, size - 1)), st.just(list(range(size))))

    def ids_with_spaces(self) -> list[list[int]]:
        """Ids of texts with blanks before, between and after words and added tokens."""
        words = [*self.texts[0].split()[:2], *self.added]
        texts = [blank + blank.join(words) + blank for blank in BLANKS] if self.any_text else []
        return list(map(self.ids, [*texts, *self.texts]))

    def decode_stream(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        stream = self.encoder.stream(before)
        return "".join(map(stream.add, ids)) + stream.rest()

    def test_text_comes_back(self) -> None:
        if not self.lossless:
            pytest.skip("lossless = False")

        def check(text: str) -> None:
            ids = self.ids(text)
            found, remedy = self.encoder.decode_bytes(ids), "set lossless = False here if it changes texts by design"
            assert found == text.encode("utf-8"), f"{text!r} comes back as {found!r}: {remedy}"
            again = self.encoder.decode(ids)
            remedy = "decode() must be decode_bytes() as UTF-8; leave it to the base class"
            assert again == text, f"decode() gives {again!r} for {text!r}: {remedy}"

        self.check_examples(check, self.text())

    def test_ids_are_integers_in_the_vocabulary(self) -> None:
        def check(text: str) -> None:
            (ids,) = self.encoder.encode_batch([text])
            remedy = "return a list with a one-dimensional NumPy array of integers for each text"
            assert isinstance(ids, np.ndarray), f"encode_batch gives a {type(ids).__name__} for a text: {remedy}"
            is_flat = ids.ndim == 1 and ids.dtype.kind in "iu"
            assert is_flat, f"encode_batch gives {ids.dtype} in {ids.ndim} dimensions: {remedy}"
            size = self.encoder.vocab_size
            outside = [token for token in ids.tolist() if not 0 <= token < size]
            assert not outside, (
                f"{text!r} gives the ids {outside[:3]}, but vocab_size is {size}: count added tokens, too"
            )

        self.check_examples(check, self.text())

    def test_texts_of_a_batch_are_independent(self) -> None:
        def check(texts: list[str]) -> None:
            together = [ids.tolist() for ids in self.encoder.encode_batch(texts)]
            remedy = "encode each text by itself, in the order given"
            assert together == [self.ids(text) for text in texts], f"a batch gives other ids than its texts: {remedy}"

        self.check_examples(check, st.lists(self.text(), max_size=5))

    def test_an_empty_text_has_no_tokens(self) -> None:
        assert self.ids("") == [], f"an empty text has the ids {self.ids('')}: add no special tokens"
        assert self.encoder.decode([]) == "", f"no ids decode to {self.encoder.decode([])!r}: return an empty text"

    def test_no_text_ends_a_document(self) -> None:
        """Not even one that looks like an end-of-text token."""
        for text in self.texts if not self.any_text else (*self.texts, *SPECIAL, *(f"a {name} b" for name in SPECIAL)):
            assert self.encoder.eot_id not in self.ids(text), (
                f"{text!r} contains the end-of-text token: encode special tokens as ordinary text"
            )

    def test_the_end_of_a_document_has_no_bytes(self) -> None:
        if self.encoder.eot_id is not None:
            size = self.encoder.vocab_size
            inside = 0 <= self.encoder.eot_id < size
            assert inside, f"eot_id is {self.encoder.eot_id}, but vocab_size is {size}: count it"
            with errors_as_failures(f"eot_id cannot be decoded: {ANY_ID}"):
                found = self.encoder.decode_bytes([self.encoder.eot_id])
            assert found == b"", f"eot_id decodes to {found!r}: leave it out of the text"

    def test_every_id_can_be_decoded_token_by_token(self) -> None:
        """A model may draw any id, in any order; texts are streamed."""

        def check(ids: list[int]) -> None:
            with errors_as_failures(f"the ids {repr(ids)} cannot be decoded: {ANY_ID}"):
                text, streamed = self.encoder.decode(ids), self.decode_stream(ids)
            assert streamed == text, f"{repr(ids)} streamed is {streamed!r}, and at once {text!r}: {HOMOMORPHISM}"
            if "\ufffd" not in text:  # else there are bytes that text cannot show
                found = self.encoder.decode_bytes(ids)
                assert found == text.encode("utf-8"), f"{repr(ids)}: decode_bytes gives {found!r}: {HOMOMORPHISM}"

        self.check_examples(check, self.any_ids())

    def test_a_text_follows_its_prompt(self) -> None:
        """Streamed after its prompt, a text continues as when decoded as a whole."""

        def check(ids: list[int], at: int) -> None:
            prompt, text = self.encoder.decode(ids[:at]), self.encoder.decode(ids)
            if text.startswith(prompt) and "\ufffd" not in prompt:  # else it ends within a character
                found = prompt + self.decode_stream(ids[at:], before=ids[:at])
                remedy = "stream(prompt) must return a Stream that continues the prompt, by the bytes of its tokens"
                assert found == text, f"{repr(ids)} after a prompt of {at} tokens is {found!r}, not {text!r}: {remedy}"

        for ids in self.ids_with_spaces():
            for at in range(min(len(ids), 20)):
                check(ids, at)
        self.check_examples(check, self.any_ids(), st.integers(0, 20))

    def test_decoding_is_that_of_its_library(self) -> None:
        if self.library([]) is None:
            pytest.skip("library() returns None")

        def check(ids: list[int]) -> None:
            found = self.encoder.decode(ids)
            wanted = self.library([token for token in ids if token != self.encoder.eot_id])
            remedy = "decode through the library, or override library() here"
            assert found == wanted, f"{repr(ids)} is {found!r}, and by the library {wanted!r}: {remedy}"

        for ids in self.ids_with_spaces():
            check(ids)
        self.check_examples(check, self.any_ids())

    def test_ids_may_come_as_any_iterable(self) -> None:
        ids = self.ids(self.texts[0])
        expected = self.encoder.decode_bytes(ids)
        for others in (iter(ids), tuple(ids), np.array(ids, dtype=np.uint32), np.array(ids, dtype=np.int64)):
            kind = f"{getattr(others, 'dtype', '')} {type(others).__name__}".strip()
            claim = f"ids as {kind} are not decoded as a list is: convert them with [int(token) for token in ids]"
            with errors_as_failures(claim):
                found = self.encoder.decode_bytes(others)
            assert found == expected, claim

    def test_unknown_counts_what_is_lost(self) -> None:
        def check(text: str) -> None:
            (ids,) = self.encoder.encode_batch([text])
            unknown = self.encoder.count_unknown(text, ids)
            case = f"count_unknown of {text!r} is {unknown}"
            assert unknown >= 0, f"{case}: return how many characters are lost"
            remedy = "count only what decoding does not return"
            assert unknown == 0 or self.encoder.decode(ids) != text, f"{case}, but all of it comes back: {remedy}"

        self.check_examples(check, self.text())

    def test_tokens_stand_for_characters_of_the_text(self) -> None:
        """They decide which tokens of a marked document count."""

        def check(text: str) -> None:
            (ids,) = self.encoder.encode_batch([text])
            with errors_as_failures(f"token_spans of {text!r} fails: override it where decoding does not return texts"):
                spans = self.encoder.token_spans(text, ids)
            remedy = "return an integer array of shape (n, 2): the first character of each token, and its end"
            is_table = isinstance(spans, np.ndarray) and spans.shape == (len(ids), 2) and spans.dtype.kind in "iu"
            assert is_table, f"token_spans gives a wrong array for {text!r}: {remedy}"
            of_tokens = spans.tolist()
            outside = [span for span in of_tokens if not 0 <= span[0] <= span[1] <= len(text)]
            assert not outside, f"token_spans gives {outside[:1]} for the {len(text)} characters of {text!r}: {remedy}"
            covered = {at for first, end in of_tokens for at in range(first, end)}
            missed = sorted(set(range(len(text))) - covered) if self.lossless else []
            assert not missed, f"no token stands for character {missed[0]} of {text!r}: {remedy}"

        self.check_examples(check, self.text())

    def test_a_text_can_be_cut_where_it_reports(self) -> None:
        """The cut is right whatever text follows."""

        def check(text: str, follower: str) -> None:
            cut = self.encoder.last_safe_cut(text)
            remedy = "return an index at which no token crosses, whatever follows; 0 is always right"
            assert 0 <= cut <= len(text), f"last_safe_cut({text!r}) is {cut}: {remedy}"
            if cut:  # else nothing is cut
                whole = text + follower
                same = self.ids(whole[:cut]) + self.ids(whole[cut:]) == self.ids(whole)
                assert same, f"{whole!r} cut at {cut} gives other ids than as a whole: {remedy}"

        self.check_examples(check, self.text(), self.text())

    def test_training_is_deterministic(self) -> None:
        again = self.component.build(self.context).state()
        remedy = "break ties by the token, and depend on no order of a set or dict"
        assert again == self.encoder.state(), f"a second training gives another state: {remedy}"

    def test_it_is_restored_from_its_state_as_json(self) -> None:
        with errors_as_failures("its state cannot be written as JSON: hold strings, numbers, lists and dicts"):
            state = json.loads(json.dumps(self.encoder.state(), allow_nan=False))
        assert state == self.encoder.state(), (
            "its state does not survive JSON, which has no tuples, and no keys but strings: use lists and string keys"
        )
        restored, remedy = self.component.restore(state), "put all that training chose into state()"
        assert restored.state() == state, f"restored it has another state: {remedy}"
        sizes = [(encoder.vocab_size, encoder.eot_id) for encoder in (restored, self.encoder)]
        assert sizes[0] == sizes[1], f"restored it has vocab_size and eot_id {sizes[0]}, not {sizes[1]}: {remedy}"
        for token in range(restored.vocab_size):
            found, wanted = restored.decode_bytes([token]), self.encoder.decode_bytes([token])
            assert found == wanted, f"restored, token {token} decodes to {found!r}, not {wanted!r}: {remedy}"

        def check(text: str) -> None:
            (ids,) = restored.encode_batch([text])
            assert ids.tolist() == self.ids(text), f"restored it encodes {text!r} otherwise: {remedy}"

        self.check_examples(check, self.text())

    def test_the_vocabulary_has_the_announced_size(self) -> None:
        announced, size = self.component.known_vocab_size(), self.encoder.vocab_size
        remedy = "return that number, or None where it is known only after training"
        assert announced in (None, size), f"known_vocab_size() is {announced}, but vocab_size is {size}: {remedy}"
