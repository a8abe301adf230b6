"""Encodes prompts, and checks sample.prompt before any data is prepared."""

from __future__ import annotations

from collections.abc import Iterator

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, TextContext
from nanogpt_kit.data.encoders import make_encoder
from nanogpt_kit.data.tokenizer_of_run import state_from_run


def encode_prompt(encoder: Encoder, prompt: str, option: str = "sample.prompt") -> list[int]:
    """The tokens of a prompt; for an empty one the end-of-text token. Raises KitError, which names `option`."""
    try:
        ids: list[int] = encoder.encode_batch([prompt])[0].tolist()
    except (KitError, UnicodeEncodeError) as error:
        raise KitError(f"the prompt cannot be encoded: {error}") from None
    if ids:
        return ids
    if encoder.eot_id is None:
        what = f"the prompt {prompt!r} has no tokens" if prompt else "the prompt is empty"
        reason = f"{what}, and this tokenizer has no end-of-text token to start from"
        raise KitError(f'{reason}; expected a text of at least one token, as in {option}="The"')
    return [encoder.eot_id]


def check_prompt(experiment: Experiment, encoder: Encoder | None = None) -> None:
    """Raises KitError where `sample.prompt` cannot be encoded.

    Without an encoder, what depends on the dataset's text is not checked.
    """
    prompt = experiment.sample.prompt
    if not experiment.sample.num_samples:
        return
    if encoder is None:
        if experiment.tokenizer.known_vocab_size() is not None:  # published; it might have to be downloaded
            return
        encoder, learns_from_text = untrained_encoder(experiment)
        if encoder is None or (learns_from_text and prompt):
            return
    try:
        encode_prompt(encoder, prompt)
    except KitError as error:
        location = experiment.location(("sample", "prompt"))
        raise KitError(*(fault.reported_at("sample.prompt", location) for fault in error.faults)) from None


def untrained_encoder(experiment: Experiment) -> tuple[Encoder | None, bool]:
    """The tokenizer's encoder, trained on no text, and whether it would learn from one."""
    dataset = experiment.dataset
    requested: list[str] = []

    def no_text(split: str) -> Iterator[str]:
        requested.append(split)
        return iter(())

    taken = state_from_run(experiment)
    if taken is not None or dataset.vocabulary() is not None:
        return make_encoder(experiment.tokenizer, dataset, taken), False
    try:
        return experiment.tokenizer.build(TextContext(splits=dataset.splits, documents=no_text)), bool(requested)
    except Exception:  # a tokenizer may need text; any other fault shows with the text, too
        return None, True
