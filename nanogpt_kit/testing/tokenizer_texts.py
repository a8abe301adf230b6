"""Texts in which tokenizers make mistakes, for their suite."""

from __future__ import annotations

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
