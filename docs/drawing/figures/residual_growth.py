"""How the size of the residual stream grows with depth at the first step, by how its writers are initialized."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.plot import Plot

N_LAYER = 12


def draw() -> Canvas:
    writers = 2 * N_LAYER  # a mixer and an MLP in each block
    canvas = Canvas(
        640,
        310,
        "The residual stream at initialization",
        "Where each of 24 layers adds features of deviation 1, the stream grows to 5; divided by √24, to 1.41.",
    )
    plot = Plot(canvas, 60, 44, 380, 200, (0, writers), (0, 5.5))
    plot.axes([0, 6, 12, 18, 24], [0, 1, 2, 3, 4, 5], "layers that have added to the stream", "standard deviation")
    plot.line([(k, (1 + k) ** 0.5) for k in range(writers + 1)], color="red-line")
    plot.line([(k, (1 + k / writers) ** 0.5) for k in range(writers + 1)], color="blue-line")
    plot.line([(k, 1.0) for k in range(writers + 1)], color="green-line")
    plot.label(writers + 0.5, 5.0, "not scaled: 5.00", color="red-line")
    plot.label(writers + 0.5, 2**0.5 + 0.18, f"gpt2: {2**0.5:.2f}", color="blue-line")
    plot.label(writers + 0.5, 1.0 - 0.22, "zero_residual: 1.00", color="green-line")
    return canvas
