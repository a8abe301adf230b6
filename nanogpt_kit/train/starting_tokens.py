"""Whether the tokens of an experiment are those of the weights it starts from, and what to write where they are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset
from nanogpt_kit.core.options import digest
from nanogpt_kit.data.tokenizer_of_run import state_from_run
from nanogpt_kit.data.tokenizer_record import TokenizerRecord, tokenizer_identity
from nanogpt_kit.generate.prompt import untrained_encoder

NOT_SEMANTIC = {"code", "fingerprint", "files"}  # keys of a record that do not decide what its ids stand for
COMPUTED = NOT_SEMANTIC | {"vocab_size", "eot_id"}  # the last two have the results in place of options


def token_semantics(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values that decide which text a token id stands for: the learnt state, or the options where there is none."""
    if record["state"]:
        return {key: record[key] for key in ("use", "vocab_size", "eot_id", "state")}
    return {key: value for key, value in record.items() if key not in NOT_SEMANTIC}


def describe_other_tokens(experiment: Experiment, before: Experiment, record: Mapping[str, Any]) -> str | None:
    """What the tokens of `experiment` are where its options show that they are not those of `record`; else None.

    `before` is the experiment of the record. No text is read, and nothing is downloaded.
    """
    use = experiment.entry_of(experiment.tokenizer).name
    if use != record["use"]:
        size = experiment.tokenizer.known_vocab_size()
        return f"{use} of {size:,} tokens" if size else use
    if not record["state"]:
        options = {key: value for key, value in tokenizer_identity(experiment).items() if key not in COMPUTED}
        other = [f"{key} = {value!r}" for key, value in options.items() if key in record and record[key] != value]
        return f"{use} with {', '.join(other)}" if other else None
    if experiment.tokenizer.from_run is not None:
        is_same = digest(state_from_run(experiment)) == digest(record["state"])
        return None if is_same else f"the {use} of {experiment.tokenizer.from_run!r}"
    encoder, learns_from_text = untrained_encoder(experiment)
    if learns_from_text:
        return None if learns_alike(experiment, before) else f"{use} that is newly learnt from other text"
    if encoder is None:
        return None
    here = TokenizerRecord.of(experiment, encoder).as_json()
    return None if token_semantics(here) == token_semantics(record) else f"{use} of {encoder.vocab_size:,} tokens"


def learns_alike(experiment: Experiment, before: Experiment) -> bool:
    """Whether two experiments may learn the same tokenizer: with the same options, from text with the same options.

    A vocabulary whose size is not an option consists of what occurs in the text, such as its characters, so that of
    another text may be the same.
    """
    one, other = experiment.resolved(), before.resolved()
    locations = experiment.tokenizer.location_options
    options = [
        {key: value for key, value in each["tokenizer"].items() if key not in locations} for each in (one, other)
    ]
    datasets = [options_of_text(one["dataset"], experiment.dataset), options_of_text(other["dataset"], before.dataset)]
    is_same_text = datasets[0] == datasets[1] or "vocab_size" not in options[0]
    return is_same_text and options[0] == options[1]


def options_of_text(values: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Those of the options of a dataset that decide its text, and not the proportions of its sources."""

    def kept(table: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in table.items() if key not in dataset.proportion_options}

    tables = {
        key: [kept(item) if isinstance(item, dict) else item for item in value]
        for key, value in values.items()
        if isinstance(value, list)
    }
    return kept({**values, **tables})


def other_tokens_error(experiment: Experiment, checkpoint: Path, record: Mapping[str, Any], now: str) -> KitError:
    """The refusal of weights that were trained on the tokens of `record`; `now` describes those of `experiment`."""
    use, name = record["use"], json.dumps(experiment.model.init_from, ensure_ascii=False)
    settings = [] if experiment.entry_of(experiment.tokenizer).name == use else [f'tokenizer.use = "{use}"']
    if record["state"]:
        settings.append(f"tokenizer.from_run = {name}")
    remedy = f"to use its tokenizer, set {' and '.join(settings) or 'the same options in [tokenizer]'}"
    then = f"{use} of {record['vocab_size']:,} tokens"
    reason = f"{checkpoint} was trained on other tokens: {then}, here {now}; {remedy}"
    return KitError(Fault(reason, "tokenizer", experiment.location(("tokenizer", "use"))))
