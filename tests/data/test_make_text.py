"""The text that tests without a network stand on is what its grammar makes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from nanogpt_kit.corpus.bpe import R50K, BPEEncoder


def test_the_prose_is_what_its_grammar_makes(prose: Path) -> None:
    made = runpy.run_path(str(prose.with_name("make_text.py")))["prose"]()
    assert prose.read_bytes() == made.encode()


@pytest.mark.usefixtures("gpt2_vocabulary")
def test_the_vocabulary_that_stands_for_gpt2_has_its_pattern_and_its_end() -> None:
    encoder = BPEEncoder.published("gpt2", None)
    assert (encoder.state()["pattern"], encoder.vocab_size, encoder.eot_id) == (R50K, 50_257, 50_256)
