"""A model of nanogpt-kit as lm-evaluation-harness uses one: scores of continuations, of whole texts, and generation.

Texts are split, cut and started as the harness's own model `hf` does it, so that both give the same numbers:

- a context that does not fit into the block size is cut at its beginning;
- an empty context is the end-of-text token;
- a text for perplexity is scored in windows of block_size tokens, each token once. The first window begins with the
  end-of-text token; each later one with at least `min_context` tokens of the text before, 1 in `hf`.

Source: Gao et al. 2024, "The Language Model Evaluation Harness", v0.4.13, docs/model_guide.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nanogpt_kit.api import Encoder, KitError, KVCache

MAX_LOGITS = 1 << 27  # of a batch that are scored: 512 MiB in fp32
MAX_NEW_TOKENS = 256  # where a task does not say, as in `hf`
Score = tuple[float, bool]  # log-likelihood in nats; whether greedy decoding gives the continuation


@dataclass(frozen=True)
class Scored:
    """A continuation and the tokens before it, cut to fit."""

    ids: list[int]  # what the model is given: all but the last token
    targets: list[int]  # the continuation


class KitLM(TemplateLM):
    """A built model with its encoder; every process of a run evaluates all of it."""

    def __init__(
        self,
        model: nn.Module,
        encoder: Encoder,
        block_size: int,
        autocast: Callable[[], AbstractContextManager[object]],
        device: str = "cpu",
        batch_size: int = 16,
        min_context: int = 1,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`autocast` sets the precision of the model's calls; `check_stop` is called between batches.

        Raises KitError where min_context exceeds the block size.
        """
        super().__init__()
        if min_context > block_size:
            raise KitError(f"min_context ({min_context}) exceeds the model's block_size ({block_size})")
        self.network, self.encoder, self.max_length = model, encoder, block_size
        self.autocast, self.check_stop, self.min_context = autocast, check_stop, min_context
        self.batch_size = batch_size
        self.network_device = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.network_device

    @property
    def eot_token_id(self) -> int:
        """Raises KitError where the tokenizer has none."""
        if self.encoder.eot_id is None:
            raise KitError("the tokenizer has no end-of-text token, with which the text of a task should begin")
        return self.encoder.eot_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        (ids,) = self.encoder.encode_batch([string])
        return [int(token) for token in ids]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Score]:
        """As the base class has it, which splits texts into tokens, without its progress bar."""
        scores: list[Score] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **options: Any
    ) -> list[Score]:
        rows = [self.cut(context, continuation) for _, context, continuation in requests]
        scores = self.score(rows)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        windows = [self.windows(request.args[0]) for request in requests]
        scores = iter(self.score([window for of_text in windows for window in of_text]))
        totals = [sum(next(scores)[0] for _ in of_text) for of_text in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def windows(self, text: str) -> list[Scored]:
        found = get_rolling_token_windows(
            self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=self.min_context
        )
        return [self.cut(context, targets) for context, targets in map(make_disjoint_window, found)]

    def cut(self, context: list[int], continuation: list[int]) -> Scored:
        if not 0 < len(continuation) <= self.max_length:
            allowed = f"expected 1 to {self.max_length}, the block_size"
            raise KitError(f"a continuation of a task has {len(continuation)} tokens; {allowed}")
        begin = context or [self.prefix_token_id]  # the spaces at its end are counted as the continuation's
        return Scored([*begin, *continuation][-(self.max_length + 1) : -1], continuation)

    def score(self, rows: Sequence[Scored]) -> list[Score]:
        """The scores in the order of the rows, which are computed in batches of similar length."""
        scores: dict[int, Score] = {}
        for batch in self.batches(rows):
            self.check_stop()
            scores |= zip(batch, self.score_batch([rows[index] for index in batch]), strict=True)
        return [scores[index] for index in range(len(rows))]

    def batches(self, rows: Sequence[Scored]) -> Iterator[list[int]]:
        """Indices of rows, the longest first."""
        batch: list[int] = []
        longest = 0
        for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].ids)):
            longest = max(longest, len(rows[index].targets))
            if len(batch) == self.batch_size or (len(batch) + 1) * longest * self.encoder.vocab_size > MAX_LOGITS:
                if batch:
                    yield batch
                batch, longest = [], len(rows[index].targets)
            batch.append(index)
        if batch:
            yield batch

    @torch.no_grad()
    def score_batch(self, rows: Sequence[Scored]) -> Iterable[Score]:
        """Texts end in the same column, so that logits are needed in the columns of the longest continuation only."""
        ids = left_padded([row.ids for row in rows], 0).to(self.device)  # (B, T)
        targets = left_padded([row.targets for row in rows], -1).to(self.device)  # (B, L)
        T, L = ids.size(1), targets.size(1)
        cache = KVCache(T, padding_of([row.ids for row in rows]))
        with self.autocast():
            if T > L:  # targets are given only to avoid logits
                self.network(ids[:, :-L], torch.full_like(ids[:, :-L], -1), cache)
            logits = self.network(ids[:, T - L :], cache=cache)  # (B, L, V)
        logits = logits.float()
        chosen = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)  # (B, L)
        likelihoods = chosen.masked_fill(targets < 0, 0.0).sum(dim=1)  # (B,)
        greedy = ((logits.argmax(dim=-1) == targets) | (targets < 0)).all(dim=1)  # (B,)
        return zip(likelihoods.tolist(), greedy.tolist(), strict=True)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Raises KitError where a task draws tokens at random, or asks for more of them than fit."""
        prompts: list[tuple[list[int], int, list[str]]] = []
        for request in requests:
            count, stops = self.generation_options(request.args[1])
            ids = self.tok_encode(request.args[0]) or [self.prefix_token_id]
            prompts.append((ids[-(self.max_length - count) :], count, stops))
        texts = [""] * len(requests)
        for batch in equal_options([(count, stops) for _, count, stops in prompts], self.batch_size):
            self.check_stop()
            _, count, stops = prompts[batch[0]]
            for index, text in zip(batch, self.generate([prompts[i][0] for i in batch], count, stops), strict=True):
                texts[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return texts

    def generation_options(self, options: dict[str, Any]) -> tuple[int, list[str]]:
        """The count of new tokens, and the strings that end a text."""
        known = normalize_gen_kwargs(options, min(MAX_NEW_TOKENS, self.max_length // 2))
        if known.get("do_sample"):
            raise KitError(
                "a task draws tokens at random (do_sample), and lm_eval decodes greedily; leave that task out"
            )
        count = int(known["max_gen_toks"])
        if not 0 < count < self.max_length:
            remedy = f"set max_gen_toks below the block_size ({self.max_length})"
            raise KitError(f"a task asks for {count} new tokens, which leaves no room for its text; {remedy}")
        return count, [text for text in handle_stop_sequences(known.get("until"), eos=None) if text]

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], max_new_tokens: int, stops: Sequence[str]) -> list[str]:
        """The greedy continuation of each prompt until a stop string or the end of the text, without either."""
        ids = left_padded(prompts, 0).to(self.device)  # (B, T)
        cache = KVCache(ids.size(1) + max_new_tokens, padding_of(prompts))
        cache.newest_only = True
        found: list[list[int]] = [[] for _ in prompts]
        running = list(range(len(prompts)))  # the prompts in the rows of the cache, also some that have ended
        ended: set[int] = set()
        for _ in range(max_new_tokens):
            with self.autocast():
                logits = self.network(ids, cache=cache)[:, -1]  # (B, V)
            newest = logits.float().argmax(dim=-1)  # (B,)
            for index, token in zip(running, newest.tolist(), strict=True):
                if index not in ended and not self.add_token(found[index], token, stops):
                    ended.add(index)
            rows = [row for row, index in enumerate(running) if index not in ended]
            if not rows:
                break
            if 2 * len(rows) <= len(running):  # not earlier, since it copies the cache
                kept = torch.tensor(rows, device=self.device)
                cache.select(kept)
                newest, running = newest[kept], [running[row] for row in rows]
            ids = newest[:, None]
        return [postprocess_generated_text(self.encoder.decode(tokens), list(stops), None) for tokens in found]

    def add_token(self, tokens: list[int], token: int, stops: Sequence[str]) -> bool:
        """Returns whether the text continues."""
        if token == self.encoder.eot_id:
            return False
        tokens.append(token)
        text = self.encoder.decode(tokens)
        return not any(stop in text for stop in stops)


def left_padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, T) int64"""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")


def padding_of(rows: Sequence[Sequence[int]]) -> list[int] | None:
    """What a cache needs to know of rows of different lengths."""
    longest = max(map(len, rows))
    counts = [longest - len(row) for row in rows]
    return counts if any(counts) else None


def equal_options(options: Sequence[tuple[int, list[str]]], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of equal options."""
    groups: dict[str, list[int]] = {}
    for index, option in enumerate(options):
        groups.setdefault(repr(option), []).append(index)
    for group in groups.values():
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]
