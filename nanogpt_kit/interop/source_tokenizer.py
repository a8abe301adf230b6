"""The tokenizer of a model of another program."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, TextContext
from nanogpt_kit.corpus.bpe import BPEEncoder
from nanogpt_kit.corpus.library_decoder import byte_level_bytes
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.data.tokenizer_of_run import state_from_run
from nanogpt_kit.interop.source import Source
from nanogpt_kit.system.json_files import read_json

logger = logging.getLogger(__name__)

MAX_PADDING_ROWS = 64  # of the embedding, which no token has; more mean that the tokenizer is another one


def encoder_of_import(source: Source, experiment: Experiment) -> Encoder:
    """The experiment's tokenizer. Raises KitError if its vocabulary is not the model's."""
    use, location = experiment.resolved()["tokenizer"]["use"], experiment.location(("tokenizer", "use"))
    path, rows = source.path, source.token_rows

    def no_text(split: str) -> Iterator[str]:
        reason = f"{use} learns its tokens from text, and {path} does not contain the model's tokens"
        raise KitError(Fault(reason, "tokenizer", location))

    def check_size(tokens: int) -> None:
        if rows is not None and not tokens <= rows < tokens + MAX_PADDING_ROWS:
            reason = f"{use} has {tokens:,} tokens, but the model of {path} has {rows:,}"
            raise KitError(Fault(f"{reason}; {tokenizer_remedy(source)}", "tokenizer", location))

    known = experiment.tokenizer.known_vocab_size()
    if known is not None:
        check_size(known)  # before anything is downloaded
    state = source.tokenizer_state(use)
    if not source.has_experiment_file:
        state = state_from_run(experiment) or state
    if state is None:
        encoder = experiment.tokenizer.build(TextContext(splits=experiment.dataset.splits, documents=no_text))
    else:
        encoder = restore_encoder(experiment.tokenizer, state)
    tokens = encoder.vocab_size
    check_size(tokens)
    if rows is not None and tokens < rows and rows % 64:  # a multiple of 64 is a padded vocabulary, like ours
        logger.warning("%s has %d tokens that %s lacks; they are neither read nor generated", path, rows - tokens, use)
    difference = None if source.has_experiment_file else token_difference(path, encoder)
    if difference:
        raise KitError(Fault(f"{use} has other tokens than the model: {difference}", "tokenizer", location))
    return encoder


def tokenizer_remedy(source: Source) -> str:
    file = source.path / "tokenizer.json"
    of_run = "tokenizer.use=bpe tokenizer.from_run=RUN, which takes that of a run"
    example = f"tokenizer.use=huggingface tokenizer.file={file}" if file.is_file() else of_run
    remedies = [f"name the tokenizer that it was trained with, as in {example}", source.model.tokenizer_remedy]
    return ", or ".join(filter(None, remedies))


def token_difference(folder: Path, encoder: Encoder) -> str | None:
    """The first token that differs between a byte-level encoder and the tokenizer files of a model, with a remedy.

    None if all agree, and if there are no files that can be compared.
    """
    path = next((folder / name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()), None)
    if path is None or not isinstance(encoder, BPEEncoder):
        return None
    try:
        content = read_json(path)
        vocabulary = content["model"]["vocab"] if path.name == "tokenizer.json" else content
        if not isinstance(vocabulary, dict):  # of pairs (token, score), in the order of ids
            vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
        tokens = {index: token for token, index in vocabulary.items() if 0 <= index < encoder.vocab_size}
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s cannot be read, so its tokens are not compared with the tokenizer's", path)
        return None
    for index, token in tokens.items():
        expected = encoder.decode_bytes([index])
        if expected and expected != byte_level_bytes(token):  # special tokens have no bytes
            file = folder / "tokenizer.json"
            how = "" if file == path else "; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
            remedy = f"tokenizer.use=huggingface tokenizer.file={file} uses the model's{how}"
            return f"token {index} is {reprlib.repr(token)} in {path.name}, but {expected!r} here; {remedy}"
    return None
