"""The suite for tokenizers: text is decoded as it was, ids stay in the vocabulary, the state survives JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_kit.core.kinds import Encoder, TextContext, Tokenizer
from nanogpt_kit.testing.component import ComponentConformance

SPECIAL = (  # texts with a special meaning in some vocabularies: marks of documents, bytes, spaces, parts of words
    *("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>"),
    *("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "<0x41>", "\u2581", "\u2581a", "\u0120", "\u010a", "##a", "a</w>"),
)
BLANKS = (" ", "  ", "    ", "\t\t", "\n", "\n\n", " \n  \n")  # joined by some vocabularies, stripped by some decoders
STRANGE = (
    *BLANKS,
    *("'s", "'LL", "'\u017f", "we're", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\0", "\x85", "\xa0"),
    *("1", "12", "1234", "\xbd", "\u2167", "\xb2", "\u0663", "\u0967\u0968", "A", "aB", "\xc9", "\u01c5", "\u02b0"),
    *("e\u0301", "\u0301", "\u0903", "\u20dd", "\u05e9\u05dc\u05d5\u05dd", "\u4e2d\u6587", "\u3042\u30f3\u30fc"),
    *("\ud55c\uae00", "\u0e44\u0e17\u0e22", ",", ".", ";", ":", "/", "//", "_", "-", "!?", "\u3001", "\u3002"),
    *("\uff0c", "\u3000", "\ufeff", "\ufffd", "\u200d", "\u2028", "\u2603", "\U0001f600", "\U0010ffff"),
    "\U0001f469\u200d\U0001f680",
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
            assert self.encoder.decode_bytes(ids) == text.encode("utf-8")
            assert self.encoder.decode(ids) == text

        self.check_examples(check, self.text())

    def test_ids_are_integers_in_the_vocabulary(self) -> None:
        def check(text: str) -> None:
            (ids,) = self.encoder.encode_batch([text])
            assert isinstance(ids, np.ndarray), "encode_batch gives NumPy arrays"
            assert (ids.ndim, ids.dtype.kind in "iu") == (1, True)
            assert all(0 <= token < self.encoder.vocab_size for token in ids.tolist())

        self.check_examples(check, self.text())

    def test_texts_of_a_batch_are_independent(self) -> None:
        def check(texts: list[str]) -> None:
            assert [ids.tolist() for ids in self.encoder.encode_batch(texts)] == [self.ids(text) for text in texts]

        self.check_examples(check, st.lists(self.text(), max_size=5))

    def test_an_empty_text_has_no_tokens(self) -> None:
        assert self.ids("") == []
        assert self.encoder.decode([]) == ""

    def test_no_text_ends_a_document(self) -> None:
        """Not even one that looks like an end-of-text token."""
        for text in self.texts if not self.any_text else (*self.texts, *SPECIAL, *(f"a {name} b" for name in SPECIAL)):
            assert self.encoder.eot_id not in self.ids(text), (
                f"{text!r} contains the end-of-text token: encode special tokens as ordinary text"
            )

    def test_the_end_of_a_document_has_no_bytes(self) -> None:
        if self.encoder.eot_id is not None:
            assert 0 <= self.encoder.eot_id < self.encoder.vocab_size
            assert self.encoder.decode_bytes([self.encoder.eot_id]) == b""

    def test_every_id_can_be_decoded_token_by_token(self) -> None:
        """A model may draw any id, in any order; texts are streamed."""

        def check(ids: list[int]) -> None:
            text = self.encoder.decode(ids)
            assert self.decode_stream(ids) == text
            if "\ufffd" not in text:  # else there are bytes that text cannot show
                assert self.encoder.decode_bytes(ids) == text.encode("utf-8")

        self.check_examples(check, self.any_ids())

    def test_a_text_follows_its_prompt(self) -> None:
        """Streamed after its prompt, a text continues as when decoded as a whole."""

        def check(ids: list[int], at: int) -> None:
            prompt, text = self.encoder.decode(ids[:at]), self.encoder.decode(ids)
            if text.startswith(prompt) and "\ufffd" not in prompt:  # else it ends within a character
                assert prompt + self.decode_stream(ids[at:], before=ids[:at]) == text

        for ids in self.ids_with_spaces():
            for at in range(min(len(ids), 20)):
                check(ids, at)
        self.check_examples(check, self.any_ids(), st.integers(0, 20))

    def test_decoding_is_that_of_its_library(self) -> None:
        if self.library([]) is None:
            pytest.skip("library() returns None")

        def check(ids: list[int]) -> None:
            assert self.encoder.decode(ids) == self.library([token for token in ids if token != self.encoder.eot_id])

        for ids in self.ids_with_spaces():
            check(ids)
        self.check_examples(check, self.any_ids())

    def test_ids_may_come_as_any_iterable(self) -> None:
        ids = self.ids(self.texts[0])
        expected = self.encoder.decode_bytes(ids)
        for others in (iter(ids), tuple(ids), np.array(ids, dtype=np.uint32), np.array(ids, dtype=np.int64)):
            assert self.encoder.decode_bytes(others) == expected

    def test_unknown_counts_what_is_lost(self) -> None:
        def check(text: str) -> None:
            (ids,) = self.encoder.encode_batch([text])
            unknown = self.encoder.count_unknown(text, ids)
            assert unknown >= 0
            assert unknown == 0 or self.encoder.decode(ids) != text

        self.check_examples(check, self.text())

    def test_a_text_can_be_cut_where_it_reports(self) -> None:
        """The cut is right whatever text follows."""

        def check(text: str, follower: str) -> None:
            cut = self.encoder.last_safe_cut(text)
            assert 0 <= cut <= len(text)
            if cut:  # else nothing is cut
                whole = text + follower
                assert self.ids(whole[:cut]) + self.ids(whole[cut:]) == self.ids(whole)

        self.check_examples(check, self.text(), self.text())

    def test_training_is_deterministic(self) -> None:
        assert self.component.build(self.context).state() == self.encoder.state()

    def test_it_is_restored_from_its_state_as_json(self) -> None:
        state = json.loads(json.dumps(self.encoder.state(), allow_nan=False))
        assert state == self.encoder.state(), "JSON has no tuples, and no keys but strings"
        restored = self.component.restore(state)
        assert restored.state() == state
        assert (restored.vocab_size, restored.eot_id) == (self.encoder.vocab_size, self.encoder.eot_id)
        for token in range(restored.vocab_size):
            assert restored.decode_bytes([token]) == self.encoder.decode_bytes([token])

        def check(text: str) -> None:
            (ids,) = restored.encode_batch([text])
            assert ids.tolist() == self.ids(text)

        self.check_examples(check, self.text())

    def test_the_vocabulary_has_the_announced_size(self) -> None:
        assert self.component.known_vocab_size() in (None, self.encoder.vocab_size)
