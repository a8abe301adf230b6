"""Cached decoding on the fake device, by the decoder and the samplers of real texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from waits import fake_tensors

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.generate import decoding_model, generator
from nanogpt_kit.generate.draw import state_increments
from nanogpt_kit.generate.generator import TextGenerator

VOCAB_SIZE = 257
PROMPT = list(b"a prompt")


def decoded_tokens(
    experiment: str, overrides: list[str], samplers: list[str], padded: bool, static: bool, tokens: int = 4
) -> dict[str, Any]:
    """What each token after the first waits for, and the devices of the cache; `padded`: texts of two lengths.

    A static cache is that of a step which a CUDA graph would replay, here called as it is: what waits in a graph fails.
    """
    one = Experiment.load(Path(experiment), [*overrides, "sample.precision=bf16", f"sample.max_new_tokens={tokens}"])
    options = one.sample.model_copy(update={"compile": "graph" if static else "off"})
    recorded = patch.object(decoding_model, "record_cuda_graph", lambda step, like: step)
    no_obstacle = patch.object(generator, "compiler_obstacle", lambda device: None)  # as with triton
    compiled = patch.object(torch, "compile", lambda function, **options: function)  # flex calls it
    state_increments.cache_clear()  # which are on the device, too
    with fake_tensors() as log, recorded, no_obstacle, compiled:
        model = one.model.build(ModelContext(vocab_size=VOCAB_SIZE)).to("cuda").eval()
        texts = TextGenerator(one, model, None, "cuda")  # type: ignore[arg-type]
        reader = texts.get_decoding_model(2, options)
        prompts, chain = [PROMPT, PROMPT[: 3 if padded else None]], texts.resolve_samplers(samplers)
        decoder = texts.build_decoder(prompts, [1, 2], options, chain, reader)
        decoder.draw_next()
        steps = []
        for _ in range(tokens - 1):
            log.begin()
            decoder.draw_next()
            steps.append(log.end()["waits"])
        kept = decoder.cache.state_dict().values() if static else decoder.cache.tensors()  # type: ignore[union-attr]
        return {"steps": steps, "cache": type(decoder.cache).__name__, "devices": sorted({t.device.type for t in kept})}
