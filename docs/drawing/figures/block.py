"""A pre-norm block: the residual stream, and the two branches that read it and add to it."""

from __future__ import annotations

from drawing.canvas import Canvas


def draw() -> Canvas:
    canvas = Canvas(
        700,
        190,
        "A block",
        "The residual stream passes the block unchanged, except for what two branches add: norm and mixer, then norm "
        "and MLP.",
    )
    y = 142
    canvas.text(34, y, "x", mono=True)
    canvas.arrow((46, y), (664, y), color="blue-line", width=3)
    canvas.text(676, y, "x", mono=True)
    canvas.text(350, y + 30, "residual stream (B, T, C)", color="blue-line", size=13)
    branch(canvas, 84, y, "norm", "ln_1", "mixer", "attn: mixes positions", "green")
    branch(canvas, 388, y, "norm", "ln_2", "MLP", "mlp: each position alone", "violet")
    return canvas


def branch(canvas: Canvas, x: float, y: float, first: str, first_note: str, second: str, note: str, fill: str) -> None:
    """From the stream up through a norm and a part, and back."""
    norm = canvas.box(x, 24, 68, 56, first, fill="yellow", note=first_note)
    part = canvas.box(x + 92, 24, 164, 56, second, fill=fill, note=note)
    canvas.arrow((x + 34, y), norm.bottom)
    canvas.arrow(norm.right, part.left)
    plus = (part.bottom[0], y)
    canvas.arrow(part.bottom, (plus[0], y - 12))
    canvas.circle(plus[0], plus[1], 11, fill="blue-line")
    canvas.text(plus[0], plus[1], "+", color="paper", bold=True, size=16)
