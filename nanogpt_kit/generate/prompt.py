"""What a text begins with, in tokens; and whether there are any, before data is prepared for them."""

from __future__ import annotations

from collections.abc import Iterator

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, TextContext
from nanogpt_kit.data.encoders import make_encoder, state_from_run


def encode_prompt(encoder: Encoder, prompt: str, option: str = "sample.prompt") -> list[int]:
    """An empty prompt is the end of the text before, where the tokenizer has one. Raises KitError.

    `option` is where another prompt would be written.
    """
    try:
        ids: list[int] = encoder.encode_batch([prompt])[0].tolist()
    except (KitError, UnicodeEncodeError) as error:
        raise KitError(f"the prompt cannot be encoded: {error}") from None
    if ids:
        return ids
    if encoder.eot_id is None:
        what = f"the prompt {prompt!r} has no tokens" if prompt else "the prompt is empty"
        reason = f"{what}, and this tokenizer has no end-of-text token to begin with"
        raise KitError(f'{reason}; expected a text of one token at the least, as in {option}="The"')
    return [encoder.eot_id]


def check_prompt(experiment: Experiment, encoder: Encoder | None = None) -> None:
    """Raises KitError where `sample.prompt` cannot be encoded.

    Without the encoder of the experiment's text, only what its tokenizer says without any text.
    """
    prompt = experiment.sample.prompt
    if not experiment.sample.num_samples:
        return
    if encoder is None:
        if experiment.tokenizer.known_vocab_size() is not None:  # a published one, which may have to be downloaded
            return
        encoder, learns = without_text(experiment)
        if encoder is None or (learns and prompt):
            return
    try:
        encode_prompt(encoder, prompt)
    except KitError as error:
        place = experiment.location(("sample", "prompt"))
        raise KitError(*(one.under("sample.prompt", place) for one in error.faults)) from None


def without_text(experiment: Experiment) -> tuple[Encoder | None, bool]:
    """The tokenizer's encoder, made of no text, and whether it would have learnt from one."""
    dataset = experiment.dataset
    asked: list[str] = []

    def no_text(split: str) -> Iterator[str]:
        asked.append(split)
        return iter(())

    taken = state_from_run(experiment)
    if taken is not None or dataset.vocabulary() is not None:
        return make_encoder(experiment.tokenizer, dataset, taken), False
    try:
        return experiment.tokenizer.build(TextContext(splits=dataset.splits, documents=no_text)), bool(asked)
    except Exception:  # of a tokenizer that cannot learn from nothing; any other fault it has with the text, too
        return None, True
