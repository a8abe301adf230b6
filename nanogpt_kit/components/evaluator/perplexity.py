"""How well the model foretells a text file: windows slide over it, so that no token has to do with little before it.

Source: Press, Smith & Lewis 2020, arXiv:2012.15832, for what windows and strides do to the number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nanogpt_kit.api import (
    Document,
    Encoder,
    EvaluateContext,
    Evaluator,
    Field,
    KitError,
    PathStr,
    RunContext,
    TextFile,
)

PIECE_CHARACTERS = 1 << 19  # that are encoded at once, where the encoder can cut: some have a Python object a token


class Perplexity(Evaluator):
    file: PathStr = Field(
        min_length=1,
        description="a text, relative to the current folder: .txt (one document), .jsonl (a document a line, under "
        "`text`), .csv, .tsv or .parquet, each also with .gz or .zst appended",
    )
    stride: int | None = Field(
        None, ge=1, description="tokens from a window to the next, at most block_size; left out: half of block_size"
    )
    name: str | None = Field(None, min_length=1, description="prefix of the metrics; left out: the file's name")

    @property
    def prefix(self) -> str:
        return self.name or TextFile(Path(self.file), field="").stem

    def refuses(self, ctx: RunContext) -> str | None:
        if not Path(self.file).is_file():
            return f"no file {self.file!r} (from {Path.cwd()})"
        if self.prefix in ctx.splits:
            return f"its metrics would be called {self.prefix}/loss, as those of the split; name = ... tells them apart"
        return self._too_far(ctx.block_size)

    def check(self, encoder: Encoder, block_size: int) -> None:
        self._read(encoder)

    def metric_names(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}/{which}" for which in ("loss", "perplexity", "bits_per_byte"))

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        if reason := self._too_far(ctx.block_size):
            raise KitError(f"perplexity of {self.file}: {reason}")
        stride = self.stride or max(1, ctx.block_size // 2)
        ids, text_bytes = self._read(ctx.encoder)  # (N + 1,)
        N = len(ids) - 1  # tokens to predict
        T = min(ctx.block_size, N)
        starts = np.arange(0, N - T + stride, stride)[:, None]  # (windows, 1)
        nats = 0.0
        for first in range(0, len(starts), ctx.batch_size):
            ctx.check_stop()
            start = starts[first : first + ctx.batch_size]  # (B, 1)
            at = start + np.arange(T + 1)  # (B, T + 1); the last window may reach beyond the text
            window = ids[at.clip(max=N)].astype(np.int64)
            again = (start > 0) & (at <= start + T - stride)  # what the windows before have predicted
            wanted = np.where(again | (at > N), -1, window)
            x, y = (torch.from_numpy(part).to(ctx.device) for part in (window[:, :-1], wanted[:, 1:]))  # (B, T)
            with ctx.autocast():
                loss = ctx.model(x, y)
            nats += loss.item()
        return {
            f"{self.prefix}/loss": nats / N,
            f"{self.prefix}/perplexity": math.exp(min(nats / N, 700.0)),  # beyond is no number that Python has
            f"{self.prefix}/bits_per_byte": nats / math.log(2) / text_bytes,
        }

    def _too_far(self, block_size: int) -> str | None:
        if self.stride is None or self.stride <= block_size:
            return None
        return f"a stride of {self.stride} would pass over tokens: the model's block_size is {block_size}"

    def _read(self, encoder: Encoder) -> tuple[np.ndarray, int]:
        """The ids of all documents, as in training data, and the bytes of text that all but the first stand for."""
        parts: list[np.ndarray] = []
        text_bytes = 0
        for document in TextFile(Path(self.file), field="text").documents():
            border = len(parts)
            for text in in_pieces(document, encoder):
                try:
                    parts += encoder.encode_batch([text])
                except KitError as error:
                    raise KitError(f"{self.file}: {error}") from None
                text_bytes += len(text.encode("utf-8"))
            if 0 < border < len(parts) and encoder.eot_id is not None:
                parts.insert(border, np.array([encoder.eot_id], np.min_scalar_type(encoder.eot_id)))
        if sum(map(len, parts)) < 2:
            raise KitError(f"{self.file}: expected two tokens at the least, got {sum(map(len, parts))}")
        ids = np.concatenate(parts)
        return ids, text_bytes - len(encoder.decode_bytes([int(ids[0])]))


def in_pieces(document: Document, encoder: Encoder) -> Iterator[str]:
    """None of them empty; together they encode to the ids of the whole."""
    waiting, limit = "", PIECE_CHARACTERS
    for text in (document,) if isinstance(document, str) else document:
        waiting += text
        if len(waiting) >= limit:
            at = encoder.cut(waiting)
            if at:
                yield waiting[:at]
            waiting, limit = waiting[at:], PIECE_CHARACTERS if at else 2 * limit  # look less and less often in vain
    if waiting:
        yield waiting
