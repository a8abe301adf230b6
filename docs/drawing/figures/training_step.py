"""One optimizer step: two micro-batches, whose gradients are summed, and the update."""

from __future__ import annotations

from drawing.canvas import Canvas


def draw() -> Canvas:
    canvas = Canvas(
        720,
        250,
        "One step",
        "The batch is split into micro-batches; each goes forward and backward, and their gradients add up; then the "
        "norm of the gradient is clipped and the optimizer updates the weights.",
    )
    batch = canvas.box(14, 84, 84, 56, "batch", fill="gray", note="step s")
    total = canvas.box(448, 84, 92, 56, "gradient", fill="yellow", note="a sum")
    for row, name in enumerate(("micro-step 1", "micro-step 2")):
        y = 34 + row * 104
        forward = canvas.box(140, y, 116, 52, "forward", fill="blue", note="loss / tokens")
        backward = canvas.box(286, y, 116, 52, "backward", fill="green", note="gradients")
        canvas.text(271, y - 14, name, color="muted", size=12)
        canvas.arrow(batch.right, forward.left)
        canvas.arrow(forward.right, backward.left)
        canvas.arrow(backward.right, total.left)
    clip = canvas.box(562, 84, 56, 56, "clip", fill="paper")
    update = canvas.box(638, 84, 72, 56, "update", fill="violet")
    canvas.arrow(total.right, clip.left)
    canvas.arrow(clip.right, update.left)
    canvas.arrow(
        update.bottom, (update.bottom[0], 220), (batch.bottom[0], 220), batch.bottom, color="muted", dashed=True
    )
    canvas.text(360, 236, "new weights, gradients cleared, step s + 1", color="muted", size=12)
    return canvas
