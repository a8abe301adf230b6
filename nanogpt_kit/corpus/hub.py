"""Text through the `datasets` library: from the Hugging Face hub, or from local files in the same formats."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.kinds.text import Document
from nanogpt_kit.core.syntax import escape_remedy
from nanogpt_kit.corpus.decompress import CODECS
from nanogpt_kit.corpus.files import ENDINGS, TextFile
from nanogpt_kit.corpus.hashes import content_hash
from nanogpt_kit.corpus.parquet import check_text_column, parquet_texts, texts_of
from nanogpt_kit.corpus.sources import matching

logger = logging.getLogger(__name__)

BUILDERS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
CONVERTED = "refs/convert/parquet"  # a branch that the hub makes itself: <config>/<split>/0000.parquet
NETWORK = ("httpx", "httpx2", "requests", "urllib3", "aiohttp", "huggingface_hub")  # whose errors are of the network
DESCRIBES = ("name", "version", "description", "data_dir", "data_files")  # options of a builder, not of its reader
BATCH_ROWS = 256
BUFFER_BYTES = 8 << 20  # of a remote file, fetched at once
PATIENCE_SECONDS = 10  # for the hub's first answer


@dataclass(frozen=True)
class HubText:
    """One column of a dataset. Nothing is read or asked for before a method needs it."""

    source: str  # a name on the hub, or local files: a path, a glob, a folder
    config: str | None
    revision: str | None
    field: str
    streaming: bool

    def texts(self, split: str) -> Iterator[Document]:
        """Rows that are null are empty. Raises KitError, and ConnectionError where a connection was lost on the way."""
        begun = False
        with quiet():
            try:
                for text in self._texts(split):
                    begun = True
                    yield text
            except KitError:
                raise
            except Exception as error:  # the library passes on those of many others
                raise self._explained(error, begun) from error

    def identity(self) -> list[Any]:
        """All that decides the texts: contents where they are local, else what was asked for."""
        files = self._files()
        if not files:
            return [self.source, self.config, self.revision, self.field]
        folder = Path(self.source).is_dir()  # there, names decide the splits
        names = [path.relative_to(self.source).as_posix() if folder else "".join(path.suffixes) for path in files]
        return [self.config, self.field, [[name, content_hash(path)] for name, path in zip(names, files, strict=True)]]

    def text_bytes(self, splits: Iterable[str]) -> int | None:
        """As the files' sizes or the hub's own description have it."""
        files = [path for path in self._files() if path.name.lower().endswith(tuple(BUILDERS) + tuple(CODECS))]
        if files:
            known = all(path.name.lower().endswith(ENDINGS) for path in files)
            sizes = [TextFile(path, self.field).text_bytes() for path in files] if known else [None]
        else:
            with quiet():
                try:
                    info = self._builder().info
                except Exception as error:
                    raise self._explained(error, begun=False) from error
            alone = info.splits and list(info.features or ()) == [self.field]  # sizes are those of all columns
            sizes = [info.splits[split].num_bytes if alone and split in info.splits else None for split in splits]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _files(self) -> list[Path]:
        """Empty for a name on the hub. Raises KitError for what is neither."""
        files = matching(self.source, ("",))
        looks_local = self.source.lower().endswith((*BUILDERS, *CODECS)) or not HUB_NAME.fullmatch(self.source)
        if not files and Path(self.source).is_dir():
            raise KitError(f"dataset.source: {self.source!r} is a folder without files")
        if not files and looks_local:
            what = (
                f"no file, folder or glob match (from {Path.cwd()}), and no name on the hub{escape_remedy(self.source)}"
            )
            raise KitError(f"dataset.source: {self.source!r} is {what}")
        return files

    def _builder(self) -> Any:
        from datasets import load_dataset_builder  # type: ignore[import-untyped]

        files = self._files()
        if not files:
            # in the branch that the hub makes, configs are folders
            chosen = {"data_dir": self.config} if self.revision == CONVERTED else {"name": self.config}
            with offline_where_unreachable():
                return load_dataset_builder(self.source, revision=self.revision, **chosen)
        if Path(self.source).is_dir():
            return load_dataset_builder(self.source, name=self.config)
        endings = {ending_of(path) for path in files}
        if len(endings) != 1 or not endings <= BUILDERS.keys():
            allowed, has = ", ".join(BUILDERS), ", ".join(sorted(ending or "none" for ending in endings))
            raise KitError(f"dataset.source: {self.source!r} should have one ending of {allowed}; it has {has}")
        kind = BUILDERS[endings.pop()]
        as_text = {} if kind != "csv" or self.streaming else {"keep_default_na": False}  # NA may be a word
        return load_dataset_builder(kind, data_files={"train": [str(path) for path in files]}, **as_text)

    def _texts(self, split: str) -> Iterator[Document]:
        for path in self._files():
            if path.name.lower().endswith(ENDINGS):  # the library would take NULs for text
                TextFile(path, self.field).check()
        builder = self._builder()
        files = builder.config.data_files or {}
        known = [str(name) for name in files or builder.info.splits or ()]
        if known and split.isidentifier() and split not in known:
            raise KitError(f"{self.source!r} has no split {split!r}{did_you_mean(split, known)}")
        if self.streaming and not split.isidentifier():
            raise KitError(f"{split!r} is a part of a split, which dataset.streaming = false can read, and true cannot")
        paths = list(files.get(split, ()))
        if self.streaming and paths and all(map(read_here, paths)) and as_usual(builder.config):
            # The library's own readers hold whole row groups, take NA for no text and do not say where a fault is;
            # and their threads can abort the process when it ends.
            for path in paths:
                yield from self._read(path)
            return
        if self.streaming:
            dataset = builder.as_streaming_dataset(split=split)
        else:
            if not Path(builder.cache_dir).exists():
                logger.info("downloading and converting all of %s", self.source)
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=split)
            check_text_column(dataset.features.arrow_schema, self.field, self.source)
            dataset = dataset.select_columns([self.field])
        for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
            check_text_column(table.schema, self.field, self.source)
            yield from texts_of(table[self.field])

    def _read(self, path: str) -> Iterator[Document]:
        """A file here, or a .parquet on the hub where it has a scheme."""
        if "://" not in path:
            yield from TextFile(Path(path), self.field).documents()
            return
        from datasets import config
        from huggingface_hub import HfFileSystem
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

        with HfFileSystem(endpoint=config.HF_ENDPOINT).open(path, "rb", block_size=BUFFER_BYTES) as remote:
            file = ParquetFile(remote, buffer_size=BUFFER_BYTES, pre_buffer=False)
            yield from parquet_texts(file, self.field, path)

    def _explained(self, error: Exception, begun: bool) -> Exception:
        """A sentence for what the library raised."""
        name = f"dataset.source: {self.source!r}"
        while type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
            error = error.__cause__  # which it does not tell itself
        told = " ".join(line.strip() for line in str(error).strip().splitlines()[:2]) or type(error).__name__
        if "StopIteration" in told:  # of the library's reader of .json
            return KitError(f"{name} holds no text: a file is empty")
        if "scripts are no longer supported" in told:
            made = f'dataset.revision="{CONVERTED}" reads what the hub made of it (of large ones the first 5 GB)'
            return KitError(f"{name} is a script, which is not run any more; {made}")
        remote = not self._files()
        network = type(error).__module__.partition(".")[0] in NETWORK or isinstance(
            error, ConnectionError | TimeoutError
        )
        if remote and network and begun:  # what is done already is kept, and gone on with
            return ConnectionError(f"{name}: the connection to the hub was lost: {told}")
        if remote and network:
            remedy = "set dataset.source to a local parquet file or folder, or take another dataset"
            return KitError(f"{name} is no file or folder here, and the hub cannot be reached; {remedy}")
        if type(error).__name__ == "DatasetNotFoundError":
            return KitError(f"{name} cannot be read: {told} Is it spelt right? A gated one needs `hf auth login`")
        if "config" in told.lower() and isinstance(error, ValueError):
            return KitError(f"{name} cannot be read: {told}; dataset.config names one")
        return KitError(f"{name} cannot be read: {told}")


def read_here(path: str) -> bool:
    """A line of a .txt is a document to the library, and not to us."""
    return path.endswith(".parquet" if "://" in path else tuple(end for end in ENDINGS if not end.startswith(".txt")))


def as_usual(config: Any) -> bool:
    """Whether nothing in a dataset's own description says how its files are to be read."""
    usual = vars(type(config)())
    return all(value == usual.get(key) for key, value in vars(config).items() if key not in DESCRIBES)


def ending_of(path: Path) -> str:
    """Without that of a compression."""
    return (path.with_suffix("") if path.suffix.lower() in CODECS else path).suffix.lower()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and the log lines of the libraries, which say the same as the error after them."""
    import datasets.utils  # type: ignore[import-untyped]
    import huggingface_hub.utils

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    silenced = [module for module in (datasets.utils, huggingface_hub.utils) if not module.are_progress_bars_disabled()]
    for logger_ in loggers:
        logger_.setLevel(logging.CRITICAL)
    for module in silenced:
        module.disable_progress_bars()
    try:
        yield
    finally:
        for logger_, level in zip(loggers, levels, strict=True):
            logger_.setLevel(level)
        for module in silenced:
            module.enable_progress_bars()


@contextmanager
def offline_where_unreachable() -> Iterator[None]:
    """The libraries would try for up to 80 seconds before they look whether they have it already."""
    from datasets import config
    from huggingface_hub import constants, get_session

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not any(before):
        try:
            get_session().head(config.HF_ENDPOINT, timeout=PATIENCE_SECONDS)
        except Exception:  # of one HTTP library or another
            config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
