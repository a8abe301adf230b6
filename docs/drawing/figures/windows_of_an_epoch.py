"""Which windows of a text of 26 tokens the order `shuffled` trains on, and in which step."""

from __future__ import annotations

from drawing.canvas import Canvas
from nanogpt_kit.components.order.shuffled import Shuffled, epoch_windows
from nanogpt_kit.core.kinds import OrderContext

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLOCK_SIZE, WINDOWS_OF_A_STEP, SEED = 4, 2, 1
CELL = 22
COLORS = ("blue", "green", "yellow", "red", "violet")


def starts_of(step: int) -> list[int]:
    ctx = OrderContext(
        n_tokens=len(LETTERS),
        block_size=BLOCK_SIZE,
        first_window=step * WINDOWS_OF_A_STEP,
        batch_windows=WINDOWS_OF_A_STEP,
        seed=SEED,
    )
    return [int(start) for start in Shuffled().starts(step, ctx)]


def draw() -> Canvas:
    canvas = Canvas(
        690,
        222,
        "Two epochs of windows",
        "In each epoch the text is cut into five windows, from another first token; they are read in another order.",
    )
    per_epoch = epoch_windows(len(LETTERS), BLOCK_SIZE)
    windows = [(step, start) for step in range(5) for start in starts_of(step)]
    left = 92
    for epoch in range(2):
        y = 44 + epoch * 88
        canvas.text(left - 12, y + 15, f"epoch {epoch + 1}", anchor="end", color="muted", size=12)
        for index, letter in enumerate(LETTERS):
            canvas.text(left + (index + 0.5) * CELL, y + 15, letter, mono=True, color="muted")
        for step, start in windows[epoch * per_epoch :][:per_epoch]:
            x = left + start * CELL
            text = LETTERS[start : start + BLOCK_SIZE]
            box = canvas.box(x + 1, y, BLOCK_SIZE * CELL - 2, 30, fill=COLORS[step])
            for index, letter in enumerate(text):
                canvas.text(x + (index + 0.5) * CELL, y + 15, letter, mono=True)
            canvas.text(box.bottom[0], y + 44, f"step {step + 1}", size=12, color="muted")
    note = "A step has two windows: step 3 has the last one of epoch 1 and the first one of epoch 2."
    canvas.text(left, 206, note, anchor="start", size=12, color="muted")
    canvas.text(left, 20, "block_size = 4, seed = 1", anchor="start", size=12, color="muted")
    return canvas
