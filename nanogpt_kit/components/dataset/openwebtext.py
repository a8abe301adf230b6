"""OpenWebText: 8,013,769 web pages, 38 GB of text, nanoGPT's substitute for GPT-2's WebText.

As in nanoGPT, one page in 2,000 is for validation; here the hash of a page decides. Streamed from the hub by default.

Source: Gokaslan & Cohen 2019, OpenWebText Corpus, https://skylion007.github.io/OpenWebTextCorpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256

from nanogpt_kit.api import Document, Field, HashSplitDataset, HubText, PathStr

REVISION = "79d93d786212f7344586290adb811d4ae6a1762c"  # everything in 80 parquet files, no script


class OpenWebText(HashSplitDataset):
    source: PathStr = Field(
        "Skylion007/openwebtext",
        min_length=1,
        description="name on the hub, or a local parquet file, folder or glob",
    )
    revision: str | None = Field(REVISION, min_length=1, description="branch, tag or commit on the hub")
    streaming: bool = Field(
        True, description="true: download while tokenizing; false: download and convert everything first"
    )
    val_fraction: float = Field(0.0005, gt=0, lt=1, description="fraction of the documents used for validation")

    def all_documents(self) -> Iterator[Document]:
        return self._text().texts("train")

    def fingerprint(self) -> str:
        values = [self._text().identity(), self.val_fraction, self.test_fraction]
        return sha256(json.dumps(values).encode()).hexdigest()

    def check_source(self) -> None:
        self._text().check_source()

    def text_bytes(self) -> int | None:
        return self._text().text_bytes(["train"])

    def _text(self) -> HubText:
        return HubText(self.source, None, self.revision, "text", self.streaming)
