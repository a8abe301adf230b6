"""Three chains of options: for memory, for computation and for generation."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.code_facts import quickstart, require_option
from nanogpt_kit import Experiment
from nanogpt_kit.core.sections import Sample, Train

CHAINS = {  # in the order in which to try them: (option, what it does)
    "memory": [
        ("train.micro_batch_size", "fewer windows\nin a pass"),
        ("train.precision", "activations in\n16 bits"),
        ("train.activation_checkpointing", "blocks computed\ntwice"),
        ("parallel", "fsdp: weights\nin parts"),
    ],
    "computation": [
        ("train.precision", "products in\n16 bits"),
        ("train.compile", "fewer, larger\nkernels"),
        ("model.attention", "fused or\nin blocks"),
        ("parallel", "ddp: windows on\nseveral devices"),
    ],
    "generation": [
        ("sample.batch_size", "several texts\nin a pass"),
        ("sample.precision", "weights half\nas large"),
        ("model.n_kv_head", "a smaller\ncache"),
        ("sample.compile", "a recorded\nstep on CUDA"),
    ],
}
FILLS = {"memory": "blue", "computation": "yellow", "generation": "green"}


def draw() -> Canvas:
    owners: dict[str, type] = {"train": Train, "sample": Sample, "model": type(quickstart().model), "": Experiment}
    canvas = Canvas(
        720, 378, "Three chains of optimization", "Options for memory, computation and generation, in order."
    )
    for row, (chain, links) in enumerate(CHAINS.items()):
        y = 28 + row * 125
        canvas.text(6, y - 16, chain, anchor="start", bold=True)
        previous = None
        for index, (key, what) in enumerate(links):
            section, _, option = key.rpartition(".")
            require_option(owners[section], option)
            name = (
                key.replace(".activation_", ".\nactivation_\n").replace(".micro_batch", ".\nmicro_batch")
                if len(key) > 20
                else key
            )
            box = canvas.box(6 + index * 181, y, 160, 88, name, note=what, fill=FILLS[chain], size=13, mono=True)
            if previous is not None:
                canvas.arrow(previous.right, box.left)
            previous = box
    return canvas
