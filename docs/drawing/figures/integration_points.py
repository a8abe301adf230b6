"""Where data, model, training and inference meet: the calls between them."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.code_facts import require_text

MEETINGS = [  # (from, to, label), each with the code that does it
    (
        "data",
        "training",
        "Prefetcher.at(step)\ngives a Batch",
        ("nanogpt_kit/train/trainer.py", "Trainer.take_step", "self.batches.at(self.step)"),
    ),
    (
        "training",
        "model",
        "parallel(ids, targets)\ngives the summed loss",
        ("nanogpt_kit/train/trainer.py", "Trainer.accumulate", "self.parallel(*windows)"),
    ),
    (
        "training",
        "inference",
        "a checkpoint: weights,\ntokenizer, options",
        ("nanogpt_kit/train/checkpoints.py", "Checkpoints._write", "store.save_checkpoint"),
    ),
    (
        "inference",
        "model",
        "model(ids, cache=cache)\ngives logits",
        ("nanogpt_kit/generate/decoding_model.py", "DecodingModel.run_eager", "cache=cache"),
    ),
]
WHERE = {"data": (30, 60), "training": (290, 60), "inference": (550, 60), "model": (290, 250)}
FILLS = {"data": "blue", "training": "yellow", "inference": "green", "model": "violet"}
ROOMS = {"data": "corpus, data", "training": "train", "inference": "generate", "model": "components, nn"}


def draw() -> Canvas:
    canvas = Canvas(
        720, 340, "Integration points", "Data gives batches to training; training and inference call the model."
    )
    boxes = {
        name: canvas.box(x, y, 140, 60, name, fill=FILLS[name], note=ROOMS[name]) for name, (x, y) in WHERE.items()
    }
    for source, target, label, code in MEETINGS:
        require_text(*code)
        start, end = boxes[source], boxes[target]
        if start.y == end.y:
            canvas.arrow(start.right, end.left)
            canvas.text((start.right[0] + end.left[0]) / 2, start.y - 30, label, size=12, color="muted")
        elif start.x == end.x:
            canvas.arrow(start.bottom, end.top)
            canvas.text(start.bottom[0] - 10, 165, label, size=12, color="muted", anchor="end")
        else:
            canvas.arrow(start.bottom, (start.bottom[0], end.right[1]), end.right)
            canvas.text(start.bottom[0] - 10, 180, label, size=12, color="muted", anchor="end")
    return canvas
