"""Which of several continuations the model finds likelier: HellaSwag, ARC, LAMBADA, or questions of your own.

Source: Zellers et al. 2019, arXiv:1905.07830; Clark et al. 2018, arXiv:1803.05457; Paperno et al. 2016,
arXiv:1606.06031; by bytes as in Gao et al. 2021, "A framework for few-shot language model evaluation".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanogpt_kit.api import Encoder, EvaluateContext, Evaluator, Field, KitError, KVCache, PathStr, RunContext, TextFile

MOST_LOGITS = 1 << 26  # of a pass: 256 MiB in fp32, and as much again while they are summed
FORMS = {  # by the key that tells it
    "ctx": '{"ctx": text, "endings": [texts], "label": number of the right one, from 0}',
    "question": '{"question": text, "choices": {"text": [texts], "label": [names]}, "answerKey": the right name}',
    "prompt": '{"prompt": text, "choices": [texts], "answer": number of the right one, from 0}',
    "text": '{"text": a text, whose last word is asked for}',
}


@dataclass(frozen=True)
class Question:
    location: str  # file:line
    form: str
    prompt: str
    choices: list[str]  # without the space that comes before each
    answer: int


@dataclass(frozen=True)
class Encoded:
    question: Question
    prompt: Tensor  # (P,) at least one token
    choices: list[Tensor]  # (L,) each

    @property
    def longest(self) -> int:
        return max(map(len, self.choices))


class MultipleChoice(Evaluator):
    file: PathStr = Field(min_length=1, description="questions, one a line (.jsonl), relative to the current folder")
    name: str | None = Field(None, min_length=1, description="prefix of the metrics; left out: the file's name")
    limit: int | None = Field(None, ge=1, description="how many questions, the first ones; left out: all")

    @property
    def prefix(self) -> str:
        return self.name or TextFile(Path(self.file), field="").stem

    def refuses(self, ctx: RunContext) -> str | None:
        try:
            self.questions()
        except KitError as error:
            return str(error)
        return None

    def check(self, encoder: Encoder, block_size: int) -> None:
        for question in self.questions():
            encode(question, encoder, block_size)

    def metric_names(self) -> tuple[str, ...] | None:
        try:
            form = self.questions(limit=1)[0].form
        except KitError:  # which `refuses` reports
            return None
        other = "perplexity" if form == "text" else "accuracy_norm"
        return f"{self.prefix}/accuracy", f"{self.prefix}/{other}"

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        asked = [encode(question, ctx.encoder, ctx.block_size) for question in self.questions()]
        right = right_by_bytes = exact = nats = 0.0
        most = ctx.batch_size * ctx.block_size
        for batch in batches(asked, ctx.block_size, most, MOST_LOGITS // ctx.encoder.vocab_size):
            ctx.check_stop()
            for one, (likelihoods, greedy) in zip(batch, scores(batch, ctx), strict=True):
                texts, answer = one.question.choices, one.question.answer
                by_bytes = [total / len(text.encode()) for total, text in zip(likelihoods, texts, strict=True)]
                right += likelihoods.index(max(likelihoods)) == answer
                right_by_bytes += by_bytes.index(max(by_bytes)) == answer
                exact += greedy[answer]
                nats -= math.nan if any(map(math.isnan, likelihoods)) else likelihoods[answer]
        if math.isnan(nats):  # compares with nothing, so that no choice is the likeliest
            right = right_by_bytes = exact = math.nan
        if asked[0].question.form == "text":
            perplexity = math.exp(min(nats / len(asked), 700.0))  # beyond is no number that Python has
            return {f"{self.prefix}/accuracy": exact / len(asked), f"{self.prefix}/perplexity": perplexity}
        accuracies = {"accuracy": right, "accuracy_norm": right_by_bytes}
        return {f"{self.prefix}/{which}": count / len(asked) for which, count in accuracies.items()}

    def questions(self, limit: int | None = None) -> list[Question]:
        """Raises KitError with file, line and what is expected there."""
        records = TextFile(Path(self.file), field="").records()
        found = [read(f"{self.file}:{number}", record) for number, _, record in islice(records, limit or self.limit)]
        if not found:
            raise KitError(f"{self.file}: no questions; expected one a line, such as {FORMS['prompt']}")
        for question in found:
            if question.form != found[0].form:
                raise KitError(f"{question.location}: unlike the lines before; expected {FORMS[found[0].form]}")
        return found


def read(place: str, record: Any) -> Question:
    form = next((key for key in FORMS if isinstance(record, dict) and key in record), None)
    if form is None:
        raise KitError(f"{place}: none of the forms of questions; expected {' or '.join(FORMS.values())}")
    try:
        return Question(place, form, *taken_apart(form, record))
    except KeyError as error:
        what = f"no {error}"
    except (AttributeError, TypeError):
        what = "a value of another type"
    except ValueError as error:
        what = str(error)
    raise KitError(f"{place}: {what}; expected {FORMS[form]}")


def taken_apart(form: str, record: dict[str, Any]) -> tuple[str, list[str], int]:
    """Prompt, choices and which of them is right. Raises ValueError and what Python does where a value is amiss."""
    if form == "ctx":
        prompt, choices, answer = record["ctx"], record["endings"], record["label"]
    elif form == "question":
        question, options = record["question"], record
        if isinstance(question, dict):  # ARC as it was first published
            question, options = question["stem"], question
        options = options["choices"]
        if isinstance(options, list):
            options = {key: [option[key] for option in options] for key in ("text", "label")}
        prompt, choices = "Question: " + question + "\nAnswer:", options["text"]
        if record["answerKey"] not in options["label"]:
            raise ValueError(f"the right one of {options['label']} is said to be {record['answerKey']!r}")
        answer = options["label"].index(record["answerKey"])
    elif form == "prompt":
        prompt, choices, answer = record["prompt"], record["choices"], record["answer"]
    else:
        prompt, choices, answer = "", record["text"].rsplit(maxsplit=1), 0
        if len(choices) == 2:
            prompt, *choices = choices
    if not isinstance(prompt, str) or not isinstance(choices, list):
        raise TypeError
    if not choices or not all(text.strip() for text in choices):
        raise ValueError("no choices, or one without text")
    "".join([prompt, *choices]).encode()  # JSON may hold half a surrogate pair, UTF-8 may not: a ValueError
    if isinstance(answer, str) and answer.isdecimal():  # as in HellaSwag's copy on the hub
        answer = int(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"the right one of {len(choices)} is said to be {answer!r}")
    return prompt, choices, answer


def encode(question: Question, encoder: Encoder, block_size: int) -> Encoded:
    """Where all does not fit the context, the prompt loses its beginning."""
    texts = [question.prompt, *(" " + text for text in question.choices)]
    try:
        prompt, *choices = (torch.from_numpy(ids.astype("int64")) for ids in encoder.encode_batch(texts))
    except KitError as error:
        raise KitError(f"{question.location}: {error}") from None
    if not len(prompt):
        if encoder.eot_id is None:
            raise KitError(f"{question.location}: no prompt, and the tokenizer has no end-of-text token to begin with")
        prompt = torch.tensor([encoder.eot_id])
    lengths = [len(ids) for ids in choices]
    if not all(0 < length <= block_size for length in lengths):
        raise KitError(f"{question.location}: choices of {lengths} tokens; expected 1 to {block_size}, the block_size")
    room = block_size - (max(lengths) - 1)  # what follows the last token is not asked
    return Encoded(question, prompt[-room:], choices)


def batches(asked: Sequence[Encoded], block_size: int, most: int, most_asked: int) -> Iterator[list[Encoded]]:
    """Questions of similar length together, unless one has more: of at most so many tokens with their padding, of which
    at most so many are asked for."""
    batch: list[Encoded] = []
    for one in sorted(asked, key=lambda one: len(one.prompt) + one.longest, reverse=True):
        more = [*batch, one]
        columns = max(len(one.prompt) for one in more) + max(one.longest for one in more) - 1
        rows = sum(len(one.choices) for one in more)
        rows_asked = rows * max(one.longest for one in more)
        if batch and (columns > block_size or rows * columns > most or rows_asked > most_asked):
            yield batch
            more = [one]
        batch = more
    yield batch


def scores(batch: Sequence[Encoded], ctx: EvaluateContext) -> Iterator[tuple[list[float], list[bool]]]:
    """Of each question: its choices' log-likelihoods in nats, and whether greedy decoding would write them.

    A prompt's tokens but the last go through the model once; its choices go on from copies of the cache.
    """
    prompts = pad_sequence([one.prompt for one in batch], batch_first=True, padding_side="left")  # (Q, P)
    choices = pad_sequence([ids for one in batch for ids in one.choices], batch_first=True, padding_value=-1)  # (R, L)
    rows = torch.tensor([number for number, one in enumerate(batch) for _ in one.choices])  # (R,)
    P, L = prompts.size(1), choices.size(1)
    cache = KVCache(P - 1 + L, padding=[P - len(one.prompt) for one in batch])
    before = prompts[:, :-1].to(ctx.device)  # (Q, P - 1)
    ids = torch.cat([prompts[rows, -1:], choices[:, :-1].clamp(min=0)], dim=1).to(ctx.device)  # (R, L)
    with ctx.autocast():
        if P > 1:  # with targets, though none is wanted, since logits of all prompts would be large
            ctx.model(before, torch.full_like(before, -1), cache)
        cache.select(rows.to(ctx.device))
        logits = ctx.model(ids, cache=cache)  # (R, L, V)
    logits, wanted = logits.float(), choices.to(ctx.device)
    own = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)  # (R, L)
    likelihoods = own.masked_fill(wanted < 0, 0.0).sum(dim=1)  # (R,)
    greedy = ((logits.argmax(dim=-1) == wanted) | (wanted < 0)).all(dim=1)  # (R,)
    sizes = [len(one.choices) for one in batch]
    for parts in zip(likelihoods.cpu().split(sizes), greedy.cpu().split(sizes), strict=True):
        yield parts[0].tolist(), parts[1].tolist()
