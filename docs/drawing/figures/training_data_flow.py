"""From text to updated weights: the stages of training, with the definition of each."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.code_facts import require_text
from drawing.flow import Stage, draw_flow

TRAINER = "nanogpt_kit/train/trainer.py"


def draw() -> Canvas:
    require_text(
        TRAINER, "Trainer.take_step", "self.schedules.apply()", "self.batches.at(self.step)", "self.update(batch)"
    )
    require_text(
        TRAINER, "Trainer.update", "self.accumulate(batch)", "self.parallel.clip", "self.scaler.step(self.optimizer)"
    )
    require_text(TRAINER, "Trainer.accumulate", "micro_batches", "self.parallel(*windows)", ".backward()")
    stages = [
        Stage("dataset: documents of a split", "core/kinds/text.py", "Dataset.documents", "text", "blue"),
        Stage("chunks of documents", "data/chunks.py", "text_chunks", "TextChunk", "blue"),
        Stage(
            "tokenizer: text to ids, on all cores", "data/encode.py", "encode_chunk", "ids, uint16 or uint32", "blue"
        ),
        Stage("train.bin, val.bin: once for all runs", "data/build.py", "build_data_folder", "memory-mapped", "blue"),
        Stage(
            "order: which windows a step has",
            "core/kinds/order.py",
            "Order.starts",
            "starts, from (step, seed)",
            "green",
        ),
        Stage(
            "a batch, made before it is needed",
            "data/batches.py",
            "Prefetcher.at",
            "(windows, block_size + 1)",
            "green",
        ),
        Stage("schedules set the learning rates", "train/schedules.py", "Schedules.apply", "", "yellow"),
        Stage(
            "micro-batches of this process",
            "data/batches.py",
            "Batch.micro_batches",
            "ids and targets (B, T)",
            "yellow",
        ),
        Stage(
            "forward: model and loss", "components/model/gpt.py", "Transformer.forward", "sum of losses, fp32", "yellow"
        ),
        Stage(
            "backward, summed over micro-batches",
            "train/trainer.py",
            "Trainer.accumulate",
            "gradients, over all processes",
            "yellow",
        ),
        Stage("clip to a norm", "nn/parallel.py", "ParallelModel.clip", "gradients", "yellow"),
        Stage("optimizer: new weights", "core/kinds/optimization.py", "Optimizer.build", "the next step", "yellow"),
        Stage("log, evaluate, save", "train/trainer.py", "Trainer.train", "", "gray"),
    ]
    return draw_flow("The flow of training data", "Thirteen stages from text to updated weights.", stages)
