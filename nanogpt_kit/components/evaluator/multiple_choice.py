"""Which of several continuations the model finds most likely: HellaSwag, ARC, LAMBADA, or your own questions.

Source: Zellers et al. 2019, arXiv:1905.07830; Clark et al. 2018, arXiv:1803.05457; Paperno et al. 2016,
arXiv:1606.06031; normalized by bytes as in Gao et al. 2021, "A framework for few-shot language model evaluation".
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

MAX_LOGITS = 1 << 26  # in a batch: 256 MiB in fp32, and as much again for their sum
FORMATS = {  # by the key that identifies them
    "ctx": '{"ctx": text, "endings": [texts], "label": index of the right one}',
    "question": '{"question": text, "choices": {"text": [texts], "label": [names]}, "answerKey": the right name}',
    "prompt": '{"prompt": text, "choices": [texts], "answer": index of the right one}',
    "text": '{"text": text, whose last word is to be predicted}',
}


@dataclass(frozen=True)
class Question:
    location: str  # file:line
    format: str  # a key of FORMATS
    prompt: str
    choices: list[str]  # a space is added before each
    answer: int  # index of the right choice


@dataclass(frozen=True)
class EncodedQuestion:
    question: Question
    prompt: Tensor  # (P,), P >= 1
    choices: list[Tensor]  # (L,) each

    @property
    def longest(self) -> int:
        return max(map(len, self.choices))


class MultipleChoice(Evaluator):
    file: PathStr = Field(min_length=1, description="questions, one per line (.jsonl), from the current folder")
    name: str | None = Field(None, min_length=1, description="prefix of the metrics; omitted: the name of the file")
    limit: int | None = Field(None, ge=1, description="number of questions, from the first one; omitted: all")

    @property
    def prefix(self) -> str:
        return self.name or TextFile(Path(self.file), field="").stem

    def refusal_reason(self, ctx: RunContext) -> str | None:
        try:
            self.questions()
        except KitError as error:
            return str(error)
        return None

    def check(self, encoder: Encoder, block_size: int) -> None:
        for question in self.questions():
            encode_question(question, encoder, block_size)

    def metric_names(self) -> tuple[str, ...] | None:
        try:
            format = self.questions(limit=1)[0].format
        except KitError:  # reported by `refusal_reason`
            return None
        other = "perplexity" if format == "text" else "accuracy_norm"
        return f"{self.prefix}/accuracy", f"{self.prefix}/{other}"

    def splits_read(self) -> tuple[str, ...]:
        return ()

    def text_metrics(self) -> tuple[str, ...]:
        return self.metric_names() or ()

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        questions = [encode_question(question, ctx.encoder, ctx.block_size) for question in self.questions()]
        right = right_by_bytes = exact = nats = 0.0
        max_tokens = ctx.batch_size * ctx.block_size
        for batch in batches(questions, ctx.block_size, max_tokens, MAX_LOGITS // ctx.encoder.vocab_size):
            ctx.check_stop()
            for encoded, (likelihoods, greedy) in zip(batch, score_choices(batch, ctx), strict=True):
                texts, answer = encoded.question.choices, encoded.question.answer
                by_bytes = [total / len(text.encode()) for total, text in zip(likelihoods, texts, strict=True)]
                right += likelihoods.index(max(likelihoods)) == answer
                right_by_bytes += by_bytes.index(max(by_bytes)) == answer
                exact += greedy[answer]
                nats -= math.nan if any(map(math.isnan, likelihoods)) else likelihoods[answer]
        if math.isnan(nats):  # NaN compares with nothing, so no choice is the most likely
            right = right_by_bytes = exact = math.nan
        if questions[0].question.format == "text":
            perplexity = math.exp(min(nats / len(questions), 700.0))  # beyond it a float overflows
            return {f"{self.prefix}/accuracy": exact / len(questions), f"{self.prefix}/perplexity": perplexity}
        accuracies = {"accuracy": right, "accuracy_norm": right_by_bytes}
        return {f"{self.prefix}/{which}": count / len(questions) for which, count in accuracies.items()}

    def questions(self, limit: int | None = None) -> list[Question]:
        """Raises KitError with file, line and the expected format."""
        records = TextFile(Path(self.file), field="").records()
        questions = [
            parse_question(f"{self.file}:{line}", record) for line, _, record in islice(records, limit or self.limit)
        ]
        if not questions:
            raise KitError(f"{self.file}: no questions; expected one per line, such as {FORMATS['prompt']}")
        first = questions[0].format
        for question in questions:
            if question.format != first:
                raise KitError(f"{question.location}: another format than the lines before; expected {FORMATS[first]}")
        return questions


def parse_question(location: str, record: Any) -> Question:
    format = next((key for key in FORMATS if isinstance(record, dict) and key in record), None)
    if format is None:
        raise KitError(f"{location}: unknown format; expected {' or '.join(FORMATS.values())}")
    try:
        return Question(location, format, *parse_fields(format, record))
    except KeyError as error:
        reason = f"{error} is missing"
    except (AttributeError, TypeError):
        reason = "a value has the wrong type"
    except ValueError as error:
        reason = str(error)
    raise KitError(f"{location}: {reason}; expected {FORMATS[format]}")


def parse_fields(format: str, record: dict[str, Any]) -> tuple[str, list[str], int]:
    """Prompt, choices, and the index of the right one. Raises KeyError, AttributeError, TypeError and ValueError."""
    if format == "ctx":
        prompt, choices, answer = record["ctx"], record["endings"], record["label"]
    elif format == "question":
        question, options = record["question"], record
        if isinstance(question, dict):  # ARC as first published
            question, options = question["stem"], question
        options = options["choices"]
        if isinstance(options, list):
            options = {key: [option[key] for option in options] for key in ("text", "label")}
        prompt, choices = "Question: " + question + "\nAnswer:", options["text"]
        if record["answerKey"] not in options["label"]:
            raise ValueError(f"answerKey is {record['answerKey']!r}, which is none of {options['label']}")
        answer = options["label"].index(record["answerKey"])
    elif format == "prompt":
        prompt, choices, answer = record["prompt"], record["choices"], record["answer"]
    else:
        prompt, choices, answer = "", record["text"].rsplit(maxsplit=1), 0
        if len(choices) == 2:
            prompt, *choices = choices
    if not isinstance(prompt, str) or not isinstance(choices, list):
        raise TypeError
    if not choices or not all(text.strip() for text in choices):
        raise ValueError("no choices, or an empty one")
    "".join([prompt, *choices]).encode()  # a ValueError for lone surrogates, which JSON allows
    if isinstance(answer, str) and answer.isdecimal():  # as in HellaSwag's copy on the hub
        answer = int(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"the answer is {answer!r}, and there are {len(choices)} choices, counted from 0")
    return prompt, choices, answer


def encode_question(question: Question, encoder: Encoder, block_size: int) -> EncodedQuestion:
    """The tokens of a question; a prompt is cut at the beginning where the question exceeds block_size."""
    texts = [question.prompt, *(" " + text for text in question.choices)]
    try:
        prompt, *choices = (torch.from_numpy(ids.astype("int64")) for ids in encoder.encode_batch(texts))
    except KitError as error:
        raise KitError(f"{question.location}: {error}") from None
    if not len(prompt):
        if encoder.eot_id is None:
            raise KitError(
                f"{question.location}: the prompt is empty, and the tokenizer has no end-of-text token to start with"
            )
        prompt = torch.tensor([encoder.eot_id])
    lengths = [len(ids) for ids in choices]
    if not all(0 < length <= block_size for length in lengths):
        raise KitError(
            f"{question.location}: choices have {lengths} tokens; expected 1 to {block_size}, the block_size"
        )
    room = block_size - (max(lengths) - 1)  # the last token of a choice is not fed
    return EncodedQuestion(question, prompt[-room:], choices)


def batches(
    questions: Sequence[EncodedQuestion], block_size: int, max_tokens: int, max_predicted: int
) -> Iterator[list[EncodedQuestion]]:
    """Questions of similar length. A batch of several has at most `max_tokens`, padding included, and at most
    `max_predicted` of them are predicted.
    """
    batch: list[EncodedQuestion] = []
    for question in sorted(questions, key=lambda question: len(question.prompt) + question.longest, reverse=True):
        larger = [*batch, question]
        longest_choice = max(question.longest for question in larger)
        columns = max(len(question.prompt) for question in larger) + longest_choice - 1
        rows = sum(len(question.choices) for question in larger)
        if batch and (columns > block_size or rows * columns > max_tokens or rows * longest_choice > max_predicted):
            yield batch
            larger = [question]
        batch = larger
    yield batch


def score_choices(batch: Sequence[EncodedQuestion], ctx: EvaluateContext) -> Iterator[tuple[list[float], list[bool]]]:
    """For each question: the log-likelihoods of its choices in nats, and whether greedy decoding generates them.

    All tokens of a prompt except the last are processed once; its choices continue from copies of the cache.
    """
    prompts = pad_sequence([question.prompt for question in batch], batch_first=True, padding_side="left")  # (Q, P)
    choices = pad_sequence([ids for question in batch for ids in question.choices], batch_first=True, padding_value=-1)
    rows = torch.tensor([i for i, question in enumerate(batch) for _ in question.choices])  # (R,)
    P, L = prompts.size(1), choices.size(1)  # choices: (R, L)
    cache = KVCache(P - 1 + L, padding=[P - len(question.prompt) for question in batch])
    before = prompts[:, :-1].to(ctx.device)  # (Q, P - 1)
    ids = torch.cat([prompts[rows, -1:], choices[:, :-1].clamp(min=0)], dim=1).to(ctx.device)  # (R, L)
    with ctx.autocast():
        if P > 1:  # targets are given only to avoid logits of all prompts, which would be large
            ctx.model(before, torch.full_like(before, -1), cache)
        cache.select(rows.to(ctx.device))
        logits = ctx.model(ids, cache=cache)  # (R, L, V)
    logits, targets = logits.float(), choices.to(ctx.device)
    log_probs = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)  # (R, L)
    likelihoods = log_probs.masked_fill(targets < 0, 0.0).sum(dim=1)  # (R,)
    greedy = ((logits.argmax(dim=-1) == targets) | (targets < 0)).all(dim=1)  # (R,)
    sizes = [len(question.choices) for question in batch]
    for parts in zip(likelihoods.cpu().split(sizes), greedy.cpu().split(sizes), strict=True):
        yield parts[0].tolist(), parts[1].tolist()
