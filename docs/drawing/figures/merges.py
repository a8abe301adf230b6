"""How byte-level BPE joins the bytes of a short text, merge by merge, as the tokenizer `bpe` learns it."""

from __future__ import annotations

from drawing.canvas import Canvas
from nanogpt_kit.components.tokenizer.bpe import BPE
from nanogpt_kit.core.kinds import TextContext

TEXT = "banana bandana"
CELL, ROW = 36, 52  # width of a byte, distance of rows
SMALLEST = 257  # the vocabulary without a merge: 256 bytes and the end-of-text token


def tokens_with(vocab_size: int) -> list[str]:
    ctx = TextContext(splits=("train",), documents=lambda split: iter([TEXT]))
    encoder = BPE(vocab_size=vocab_size).build(ctx)
    return [encoder.decode_bytes([token]).decode() for token in encoder.encode_batch([TEXT])[0]]


def draw() -> Canvas:
    canvas = Canvas(
        650, 240, "Three merges of a byte-level BPE", f"The tokens of {TEXT!r} with 0, 1, 2 and 3 merges: 14, 10, 8, 6."
    )
    before: set[str] = set()
    for merges in range(4):
        tokens = tokens_with(SMALLEST + merges)
        new = {token for token in tokens if len(token) > 1} - before
        before |= new
        y = 18 + merges * ROW
        name = f"merge {merges}: {', '.join(sorted(new))}" if merges else "bytes"
        canvas.text(108, y + 17, name, anchor="end", color="muted", size=12)
        x = 120.0
        for token in tokens:
            fill = "green" if token in new else "blue" if len(token) > 1 else "paper"
            shown = token.replace(" ", "␣")
            canvas.box(x + 1, y, len(token) * CELL - 2, 34, shown, fill=fill, mono=True)
            x += len(token) * CELL
    canvas.text(
        120, 228, "green: the token that this merge adds; blue: those of earlier merges", anchor="start", size=12
    )
    return canvas
