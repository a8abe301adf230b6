"""What the training loop holds: the attributes that Trainer makes, with what makes each."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.code_facts import attributes_of
from drawing.tree import Part, draw_tree

TRAINER = "nanogpt_kit/train/trainer.py"
MEANINGS = {
    "progress": "step, seconds, last evaluation",
    "stop": "signals, time limits, requests of callbacks",
    "precision": "number format, autocast",
    "scaler": "scales the loss in fp16",
    "batches": "the windows of each step, prefetched",
    "resume_point": "the newest checkpoint, if there is one",
    "model": "the network, with its first weights",
    "finite": "checks losses, gradients and weights",
    "diagnostics": "train.watch, metrics of modules",
    "parallel": "the model over processes: sync, clip",
    "optimizer": "updates the weights",
    "schedules": "sets learning rates before each step",
    "trial": "a pass without an update, to compile and time",
    "compile": "whether the model is compiled, and why",
    "summary": "the lines that a run prints first",
    "throughput": "tokens per second, MFU",
    "log": "metrics.jsonl",
    "config": "every option, for callbacks",
    "hooks": "the callbacks",
    "checkpoints": "saves, retains, finds the best",
}


def draw() -> Canvas:
    attributes = attributes_of(TRAINER, "Trainer")
    assert (found := {name for name, _ in attributes}) == MEANINGS.keys(), found ^ MEANINGS.keys()
    parts = [Part(name, made_by, MEANINGS[name]) for name, made_by in attributes]
    root = Part("Trainer", "train/trainer.py", "train, take_step, update, accumulate", parts)
    return draw_tree("What the training loop holds", "The attributes of Trainer.", root, (160, 370))
