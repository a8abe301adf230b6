"""Perplexity of a text file with a sliding window, so that every token is predicted from a long context.

A .txt file is one document; a .jsonl file has one per line, under `text`.
Source: Press, Smith & Lewis 2020, arXiv:2012.15832, on windows and strides.
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

CHUNK_CHARACTERS = 1 << 19  # encoded at once: some encoders make a Python object per token


class Perplexity(Evaluator):
    file: PathStr = Field(
        min_length=1,
        description="text file, from the current folder: .txt, .jsonl, .csv, .tsv or .parquet, also .gz or .zst",
    )
    stride: int | None = Field(
        None, ge=1, description="tokens from one window to the next, at most block_size; omitted: half of it"
    )
    name: str | None = Field(None, min_length=1, description="prefix of the metrics; omitted: the name of the file")

    @property
    def prefix(self) -> str:
        return self.name or TextFile(Path(self.file), field="").stem

    def refusal_reason(self, ctx: RunContext) -> str | None:
        if not Path(self.file).is_file():
            return f"no file {self.file!r} (from {Path.cwd()})"
        if self.prefix in ctx.splits:
            return f"its metric would be {self.prefix}/loss, as that of a split; set name = ... to another prefix"
        return self._stride_fault(ctx.block_size)

    def check(self, encoder: Encoder, block_size: int) -> None:
        self._read(encoder)

    def metric_names(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}/{which}" for which in ("loss", "perplexity", "bits_per_byte"))

    def splits_read(self) -> tuple[str, ...]:
        return ()

    def text_metrics(self) -> tuple[str, ...]:
        return (f"{self.prefix}/bits_per_byte",)

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        if reason := self._stride_fault(ctx.block_size):
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
            index = start + np.arange(T + 1)  # (B, T + 1); the last window may extend beyond the text
            window = ids[index.clip(max=N)].astype(np.int64)
            is_predicted = (start > 0) & (index <= start + T - stride)  # by earlier windows
            targets = np.where(is_predicted | (index > N), -1, window)
            x, y = (torch.from_numpy(part).to(ctx.device) for part in (window[:, :-1], targets[:, 1:]))  # (B, T)
            with ctx.autocast():
                loss = ctx.model(x, y)
            nats += loss.item()
        return {
            f"{self.prefix}/loss": nats / N,
            f"{self.prefix}/perplexity": math.exp(min(nats / N, 700.0)),  # beyond it a float overflows
            f"{self.prefix}/bits_per_byte": nats / math.log(2) / text_bytes,
        }

    def _stride_fault(self, block_size: int) -> str | None:
        if self.stride is None or self.stride <= block_size:
            return None
        return f"a stride of {self.stride} would skip tokens: the block_size of the model is {block_size}"

    def _read(self, encoder: Encoder) -> tuple[np.ndarray, int]:
        """The ids of all documents, as in training data, and the bytes of text of all ids except the first."""
        parts: list[np.ndarray] = []
        text_bytes = 0
        for document in TextFile(Path(self.file), field="text").documents():
            boundary = len(parts)
            for text in chunks_to_encode(document, encoder):
                try:
                    parts += encoder.encode_batch([text])
                except KitError as error:
                    raise KitError(f"{self.file}: {error}") from None
                text_bytes += len(text.encode("utf-8"))
            if 0 < boundary < len(parts) and encoder.eot_id is not None:
                parts.insert(boundary, np.array([encoder.eot_id], np.min_scalar_type(encoder.eot_id)))
        if sum(map(len, parts)) < 2:
            raise KitError(f"{self.file}: expected at least two tokens, got {sum(map(len, parts))}")
        ids = np.concatenate(parts)
        return ids, text_bytes - len(encoder.decode_bytes([int(ids[0])]))


def chunks_to_encode(document: Document, encoder: Encoder) -> Iterator[str]:
    """Chunks, none of them empty, whose ids together are those of the document."""
    waiting, limit = "", CHUNK_CHARACTERS
    for text in (document,) if isinstance(document, str) else document:
        waiting += text
        if len(waiting) >= limit:
            at = encoder.last_safe_cut(waiting)
            if at:
                yield waiting[:at]
            waiting, limit = (
                waiting[at:],
                CHUNK_CHARACTERS if at else 2 * limit,
            )  # search again only after twice as much text
    if waiting:
        yield waiting
