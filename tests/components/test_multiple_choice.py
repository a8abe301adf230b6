"""Multiple choice: against each whole text by itself, without a cache, for every form of record."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.api import KitError, ModelContext, RunContext
from nanogpt_kit.components.evaluator.multiple_choice import MultipleChoice, batches, encode_question, score_choices
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.tokenizer.byte import ByteEncoder
from nanogpt_kit.components.tokenizer.char import CharEncoder
from nanogpt_kit.nn.parameter_shapes import parameter_shapes

BLOCK = 48
PARTS: dict[str, dict[str, Any]] = {
    "learned": {},
    "rope, grouped": {"position": "rope", "n_kv_head": 2, "norm": "rmsnorm", "qk_norm": True},
    "alibi": {"position": "alibi", "attention": "naive"},
    "window": {"position": "none", "attention": {"use": "sdpa", "window": 5}, "logit_softcap": 6.0},
}
HELLASWAG = [
    {
        "ind": 4,
        "ctx": "A man climbs a ladder. He",
        "endings": ["falls.", "cleans the gutter.", "is", "\u00e9t\u00e9"],
        "label": 1,
    },
    {"ind": 5, "ctx": "She", "endings": ["sings a song on the stage.", "eats", "waves at all.", "x"], "label": "2"},
    {"ind": 6, "ctx": "The dog runs after the red ball and then it", "endings": ["a", "b", "c", "d"], "label": "0"},
    {"ind": 7, "ctx": "Two people in a kitchen", "endings": ["cook rice", "cook", "cook rice.", "sleep"], "label": 3},
]
ARC = [
    {
        "question": "What melts?",
        "choices": {"text": ["ice", "stone", "a lamp"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    },
    {"question": "Which is a metal?", "choices": {"text": ["iron", "wood"], "label": ["1", "2"]}, "answerKey": "2"},
    {
        "question": {
            "stem": "What flies?",
            "choices": [{"text": "a bird", "label": "A"}, {"text": "a stone wall", "label": "B"}],
        },
        "answerKey": "B",
    },
]
PLAIN = [
    {"prompt": "One and one is", "choices": ["two", "three", "a lot"], "answer": 0},
    {"prompt": "", "choices": ["no", "yes it is"], "answer": 1},
    {"prompt": "Is it? ", "choices": ["no", "yes"], "answer": 1},
]
LAMBADA = [
    {"text": text}
    for text in ["He gave her the ring \n", "the end", "A cat sat on the\nmat", "once", "to be or not to be"]
]


def random_model(vocab_size: int = 257, block_size: int = BLOCK, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=2, n_head=4, n_embd=16, block_size=block_size, **options)
    network = model.build(ModelContext(vocab_size=vocab_size))
    GPT2(std=0.4).apply(network, parameter_shapes(network))
    return network.eval()


def written(path: Path, records: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def texts_of(record: dict[str, Any]) -> tuple[str, list[str], int]:
    """Prompt, choices and answer of one of the records above, by hand."""
    if "endings" in record:
        return record["ctx"], record["endings"], int(record["label"])
    if "answerKey" in record:
        asked = record["question"]
        if isinstance(asked, dict):
            texts = [choice["text"] for choice in asked["choices"]]
            return f"Question: {asked['stem']}\nAnswer:", texts, "AB".index(record["answerKey"])
        choices = record["choices"]
        return f"Question: {asked}\nAnswer:", choices["text"], choices["label"].index(record["answerKey"])
    if "text" in record:
        words = record["text"].split()
        return record["text"].strip()[: -len(words[-1])].strip(), [words[-1]], 0
    return record["prompt"], record["choices"], record["answer"]


ANY = 10**9  # logits that are asked for at a time


@torch.no_grad()
def alone(model: nn.Module, prompt: str, choice: str, block_size: int = BLOCK) -> tuple[float, bool]:
    """The whole text through the model by itself: its log-likelihood after the prompt, and whether greed writes it."""
    before, after = list(prompt.encode()) or [256], list(f" {choice}".encode())
    ids = (before + after)[-block_size - 1 :]
    logits = model(torch.tensor([ids[:-1]]))[0, -len(after) :].double()
    total = sum(row.log_softmax(0)[token].item() for row, token in zip(logits, after, strict=True))
    return total, logits.argmax(-1).tolist() == after


def expected_metrics(model: nn.Module, records: Sequence[dict[str, Any]]) -> dict[str, float]:
    right, by_bytes, exact, nats = 0, 0, 0, 0.0
    for record in records:
        prompt, choices, answer = texts_of(record)
        totals = [alone(model, prompt, choice)[0] for choice in choices]
        norms = [total / len(choice.encode()) for total, choice in zip(totals, choices, strict=True)]
        right += max(totals) == totals[answer]
        by_bytes += max(norms) == norms[answer]
        exact += alone(model, prompt, choices[answer])[1]
        nats -= totals[answer]
    n = len(records)
    if "text" in records[0]:
        return {"q/accuracy": exact / n, "q/perplexity": math.exp(nats / n)}
    return {"q/accuracy": right / n, "q/accuracy_norm": by_bytes / n}


@torch.no_grad()
def measured(ctx: Any, **options: Any) -> dict[str, float]:
    evaluator = MultipleChoice(**options)
    found = evaluator.evaluate(ctx)
    assert evaluator.metric_names() == tuple(found)
    return found


@torch.no_grad()
def found_scores(ctx: Any, file: str) -> dict[str, tuple[list[float], list[bool]]]:
    """By the place of the question."""
    asked = [
        encode_question(question, ctx.encoder, ctx.block_size) for question in MultipleChoice(file=file).questions()
    ]
    found = {}
    for batch in batches(asked, ctx.block_size, ctx.batch_size * ctx.block_size, ANY):
        for one, score in zip(batch, score_choices(batch, ctx), strict=True):
            found[one.question.location] = score
    return found


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("records", [HELLASWAG, ARC, PLAIN, LAMBADA], ids=["hellaswag", "arc", "plain", "lambada"])
def test_likelihoods_and_metrics_are_those_of_each_whole_text_by_itself(
    tmp_path: Path, standing: Any, records: list[dict[str, Any]], parts: dict[str, Any]
) -> None:
    model, file = random_model(**parts), written(tmp_path / "q.jsonl", records)
    ctx = standing(model, BLOCK)
    found = found_scores(ctx, file)
    for number, record in enumerate(records, start=1):
        prompt, choices, _ = texts_of(record)
        expected = [alone(model, prompt, choice) for choice in choices]
        likelihoods, greedy = found[f"{file}:{number}"]
        assert likelihoods == pytest.approx([total for total, _ in expected], abs=1e-4)
        assert greedy == [written for _, written in expected]
    assert measured(ctx, file=file) == pytest.approx(expected_metrics(model, records), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("records", [HELLASWAG, LAMBADA], ids=["hellaswag", "lambada"])
def test_the_batch_size_changes_nothing(
    tmp_path: Path, standing: Any, records: list[dict[str, Any]], batch_size: int
) -> None:
    model, file = random_model(position="rope"), written(tmp_path / "q.jsonl", records)
    one, many = (found_scores(standing(model, BLOCK, size), file) for size in (1, batch_size))
    for place, (likelihoods, greedy) in one.items():
        assert many[place][0] == pytest.approx(likelihoods, abs=1e-4)
        assert many[place][1] == greedy
    found = measured(standing(model, BLOCK, batch_size), file=file)
    assert found == pytest.approx(expected_metrics(model, records), rel=1e-5)


def test_the_prompt_goes_through_the_model_once(tmp_path: Path, standing: Any) -> None:
    model, file = random_model(), written(tmp_path / "q.jsonl", HELLASWAG[:1])
    shapes: list[tuple[int, ...]] = []
    heads: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    model.lm_head.register_forward_pre_hook(lambda module, args: heads.append(tuple(args[0].shape[:2])))
    measured(standing(model, BLOCK, 100), file=file)
    prompt, choices, _ = texts_of(HELLASWAG[0])
    longest = max(len(choice.encode()) for choice in choices) + 1
    assert shapes == [(1, len(prompt) - 1), (4, longest)], "its last token once a choice, whose first it foretells"
    assert heads == shapes[1:], "no logits of prompts"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_hold_what_fits_and_no_more(tmp_path: Path, standing: Any, batch_size: int) -> None:
    lengths = [(1, 40), (45, 2), (30, 3), (3, 30), (20, 20), (1, 1), (2, 2), (47, 1), (46, 2), (9, 3), (7, 2), (6, 1)]
    records = [{"prompt": "p" * p, "choices": ["c" * n, "d"], "answer": 0} for p, n in lengths]
    file = written(tmp_path / "q.jsonl", records)
    asked = [encode_question(question, ByteEncoder(), BLOCK) for question in MultipleChoice(file=file).questions()]

    def fits(batch: list[Any]) -> bool:
        columns = max(len(one.prompt) for one in batch) + max(len(ids) for one in batch for ids in one.choices) - 1
        return columns <= BLOCK and 2 * len(batch) * columns <= batch_size * BLOCK

    found = list(batches(asked, BLOCK, batch_size * BLOCK, ANY))
    assert sorted(one.question.location for batch in found for one in batch) == sorted(
        one.question.location for one in asked
    )
    assert all(len(batch) == 1 or fits(batch) for batch in found)
    assert not any(fits([*batch, following[0]]) for batch, following in pairwise(found))
    for most in (5, 40, 90):
        few = list(batches(asked, BLOCK, batch_size * BLOCK, most))
        assert sum(map(len, few)) == len(asked)
        assert all(len(batch) == 1 or 2 * len(batch) * max(one.longest for one in batch) <= most for batch in few)
    model = random_model()
    likelihoods = found_scores(standing(model, BLOCK, batch_size), file)
    for number, record in enumerate(records, start=1):
        expected = [alone(model, record["prompt"], choice)[0] for choice in record["choices"]]
        assert likelihoods[f"{file}:{number}"][0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("longest", [5, 46, 47])
def test_a_prompt_that_is_too_long_loses_its_beginning(tmp_path: Path, standing: Any, longest: int) -> None:
    model = random_model()
    record = {"prompt": "abcdefghij" * 6, "choices": ["x" * longest, "end"], "answer": 0}
    ctx, file = standing(model, BLOCK), written(tmp_path / "q.jsonl", [record])
    kept = ("abcdefghij" * 6)[-(BLOCK - longest) :]  # with the space before it the longest has one token more
    expected = [alone(model, kept, choice)[0] for choice in record["choices"]]
    assert found_scores(ctx, file)[f"{file}:1"][0] == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def parrot() -> nn.Module:
    """Knows one sentence by heart."""
    model, ids = random_model().train(), torch.tensor([list(b"once upon a time there was a king.")])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    return model.eval()


def test_a_last_word_counts_where_greedy_decoding_writes_all_of_it(
    tmp_path: Path, standing: Any, parrot: nn.Module
) -> None:
    ends = ["there was a king.", "there was a king", "there was a kink.", "there was a bing.", "there was", "there is"]
    file = written(tmp_path / "q.jsonl", [{"text": f"once upon a time {end}"} for end in ends])
    found = {place: score[1] for place, score in found_scores(standing(parrot, BLOCK), file).items()}
    assert [found[f"{file}:{number}"] for number in range(1, 7)] == [[True], [True], [False], [False], [True], [False]]
    assert measured(standing(parrot, BLOCK), file=file)["q/accuracy"] == 0.5


def test_the_likelier_choice_is_taken_and_by_bytes_perhaps_another(
    tmp_path: Path, standing: Any, parrot: nn.Module
) -> None:
    short = {"prompt": "once upon a time", "choices": ["there was a kinx.", "x"], "answer": 0}
    file, ctx = written(tmp_path / "q.jsonl", [short]), standing(parrot, BLOCK)
    ((likelihoods, _),) = found_scores(ctx, file).values()
    assert likelihoods[0] < likelihoods[1]
    assert likelihoods[0] / 17 > likelihoods[1] / 1
    assert measured(ctx, file=file) == {"q/accuracy": 0.0, "q/accuracy_norm": 1.0}


def test_bytes_are_counted_and_not_characters(tmp_path: Path, standing: Any) -> None:
    model, accents = random_model(), "\u00e9" * 4
    by_accents = alone(model, "The", accents)[0]
    plain = next(
        letter * 4
        for letter in map(chr, range(ord("A"), ord("z")))
        if by_accents / 4 < alone(model, "The", letter * 4)[0] / 4 < by_accents / 8
    )
    file = written(tmp_path / "q.jsonl", [{"prompt": "The", "choices": [plain, accents], "answer": 1}])
    assert measured(standing(model, BLOCK), file=file) == {"q/accuracy": 0.0, "q/accuracy_norm": 1.0}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_model_computes_in_the_precision_it_is_told(tmp_path: Path, standing: Any, precision: torch.dtype) -> None:
    model, file = random_model(), written(tmp_path / "q.jsonl", HELLASWAG)
    kinds: set[torch.dtype] = set()
    model.lm_head.register_forward_hook(lambda module, args, out: kinds.add(out.dtype))
    found = found_scores(standing(model, BLOCK, precision=precision), file)
    assert kinds == {precision}
    for number, record in enumerate(HELLASWAG, start=1):
        prompt, choices, _ = texts_of(record)
        expected = [alone(model, prompt, choice)[0] for choice in choices]
        assert found[f"{file}:{number}"][0] == pytest.approx(expected, rel=1e-5 if precision is torch.float32 else 0.05)
    totals = torch.tensor([total for likelihoods, _ in found.values() for total in likelihoods])
    assert not torch.equal(totals, totals.bfloat16().float()), "sums and their terms are fp32"


def test_a_limit_takes_the_first_questions(tmp_path: Path, standing: Any) -> None:
    model, file = random_model(), written(tmp_path / "q.jsonl", [*LAMBADA, "no question"])
    ctx = standing(model, BLOCK)
    assert measured(ctx, file=file, limit=2) == pytest.approx(expected_metrics(model, LAMBADA[:2]), rel=1e-5)
    found = measured(ctx, file=file, limit=5, name="lambada")
    assert list(found) == ["lambada/accuracy", "lambada/perplexity"]


def test_questions_may_be_compressed(tmp_path: Path) -> None:
    file = tmp_path / "q.test.jsonl.gz"
    file.write_bytes(gzip.compress(b"\n".join(json.dumps(record).encode() for record in PLAIN)))
    evaluator = MultipleChoice(file=str(file))
    assert [(q.prompt, q.choices, q.answer) for q in evaluator.questions()] == [texts_of(record) for record in PLAIN]
    assert evaluator.prefix == "q.test"


FAULTS: dict[str, tuple[str, str]] = {  # a line, and a part of what is said of it
    "bad JSON": ('{"prompt": ', "not JSON: an object that does not start and end on this line"),
    "bad UTF-8": ('{"prompt": "\udcff"}', "not UTF-8: byte 0xff at offset "),
    "no object": ("[1, 2]", 'expected {"ctx": text, '),
    "no known key": ('{"endings": ["a"]}', "expected "),
    "no endings": ('{"ctx": "a", "label": 0}', "'endings' is missing; expected {\"ctx\": text"),
    "no label": ('{"ctx": "a", "endings": ["b", "c"]}', "'label'"),
    "a label that is empty": (
        '{"ctx": "a", "endings": ["b", "c"], "label": ""}',
        "answer is '', and there are 2 choices",
    ),
    "no answer": ('{"prompt": "a", "choices": ["b"]}', "'answer' is missing; expected {\"prompt\": text"),
    "an answer beyond": ('{"prompt": "a", "choices": ["b", "c"], "answer": 2}', "answer is 2, and there are 2 choices"),
    "an answer below": (
        '{"prompt": "a", "choices": ["b", "c"], "answer": -1}',
        "answer is -1, and there are 2 choices",
    ),
    "an answer of no number": ('{"prompt": "a", "choices": ["b", "c"], "answer": true}', "answer is True"),
    "no choices": ('{"prompt": "a", "choices": [], "answer": 0}', "no choices, or an empty one"),
    "an empty choice": ('{"prompt": "a", "choices": ["b", " "], "answer": 0}', "no choices, or an empty one"),
    "choices that are a text": ('{"prompt": "a", "choices": "bc", "answer": 0}', "wrong type"),
    "a choice that is no text": ('{"prompt": "a", "choices": ["b", 3], "answer": 0}', "wrong type"),
    "a prompt that is no text": ('{"prompt": 1, "choices": ["b", "c"], "answer": 0}', "wrong type"),
    "a question that is no text": (
        '{"question": 1, "choices": {"text": ["b"], "label": ["A"]}, "answerKey": "A"}',
        "type",
    ),
    "no names": ('{"question": "a", "choices": {"text": ["b"]}, "answerKey": "A"}', "'label'"),
    "a name that is none": (
        '{"question": "a", "choices": {"text": ["b"], "label": ["A"]}, "answerKey": "B"}',
        "'B', which is none of ['A']; expected {\"question\": text",
    ),
    "half a character": ('{"text": "a \\ud83d b"}', "surrogates not allowed; expected"),
    "a text without words": ('{"text": "  "}', 'no choices, or an empty one; expected {"text": '),
}
RUN = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=BLOCK)


@pytest.mark.parametrize(("line", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_says_where_and_what_is_expected(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"\n\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    reason = str(MultipleChoice(file=str(file)).refusal_reason(RUN))
    assert reason.startswith(f"{file}:3: ")
    assert message in reason


def test_a_file_of_no_questions_or_of_two_forms_is_refused(tmp_path: Path) -> None:
    assert "nowhere.jsonl: cannot be read: No such file" in str(
        MultipleChoice(file="nowhere.jsonl").refusal_reason(RUN)
    )
    file = written(tmp_path / "q.jsonl", [])
    assert f"{file}: no questions; expected one per line" in str(MultipleChoice(file=file).refusal_reason(RUN))
    file = written(tmp_path / "q.jsonl", [PLAIN[0], LAMBADA[0]])
    assert f'{file}:2: another format than the lines before; expected {{"prompt"' in str(
        MultipleChoice(file=file).refusal_reason(RUN)
    )
    assert MultipleChoice(file=file, limit=1).refusal_reason(RUN) is None


def test_what_cannot_be_encoded_is_told_by_its_line(tmp_path: Path, standing: Any) -> None:
    model = random_model()
    long = written(tmp_path / "q.jsonl", [PLAIN[0], {"prompt": "a", "choices": ["x" * 47, "x" * 48], "answer": 0}])
    with pytest.raises(KitError, match=r"q\.jsonl:2: choices have \[48, 49\] tokens; expected 1 to 48, the block_size"):
        measured(standing(model, BLOCK), file=long)
    encoder = CharEncoder(" abc", skip=False)
    strange = written(tmp_path / "q.jsonl", [{"prompt": "a", "choices": ["b", "d"], "answer": 0}])
    with pytest.raises(KitError, match=r"q\.jsonl:1: not in the vocabulary of 4 characters: 'd'"):
        measured(standing(model, BLOCK, encoder=encoder), file=strange)
    without_prompt = written(tmp_path / "q.jsonl", [{"text": "abc"}])
    with pytest.raises(KitError, match=r"q\.jsonl:1: the prompt is empty, and the tokenizer has no end-of-text token"):
        measured(standing(model, BLOCK, encoder=encoder), file=without_prompt)


def test_the_users_wish_to_stop_is_asked_for_between_passes(tmp_path: Path, standing: Any) -> None:
    ctx = standing(random_model(), BLOCK, batch_size=1, stops_after=1)
    shapes: list[int] = []
    ctx.model.register_forward_pre_hook(lambda module, args: shapes.append(1))
    with pytest.raises(KeyboardInterrupt):
        measured(ctx, file=written(tmp_path / "q.jsonl", HELLASWAG))
    assert len(shapes) == 2, "the prompt and its choices"


def test_a_run_answers_questions_as_it_trains(tiny: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    records = [{"prompt": f"{n} times 7", "choices": ["is", "knows"], "answer": 0} for n in range(5)]
    more = f"evaluator=['loss', {{use='multiple_choice', file='{written(tmp_path / 'q.jsonl', records)}'}}]"
    answer = command("run", tiny, more, "train.steps=2", "evaluate.every_steps=2", "callback=[]")
    assert answer.code == 0, answer.err
    logged = [json.loads(line) for path in tmp_path.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    found = [record for record in logged if "q/accuracy" in record]
    assert len(found) == 1
    assert 0 <= found[0]["q/accuracy_norm"] <= 1


def test_a_run_does_not_begin_with_bad_questions(tiny: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    file = written(tmp_path / "q.jsonl", [PLAIN[0], {"prompt": "a"}])
    answer = command("run", tiny, f"evaluator=[{{use='multiple_choice', file='{file}'}}]")
    assert answer.code == 2
    assert "evaluator.0: " in answer.err
    assert "q.jsonl:2: 'choices' is missing; expected" in answer.err.replace("\n", " ")


@pytest.mark.parametrize("records", [PLAIN, LAMBADA])
def test_a_model_that_gives_nan_has_no_accuracy(
    tmp_path: Path, standing: Callable[..., Any], records: list[dict[str, Any]]
) -> None:
    model = random_model()
    with torch.no_grad():
        model.get_parameter("ln_f.weight").fill_(math.nan)
    found = measured(standing(model, BLOCK), file=written(tmp_path / "q.jsonl", records))
    assert all(map(math.isnan, found.values()))
