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
from nanogpt_kit.corpus.hashes import content_hash
from nanogpt_kit.corpus.parquet import check_text_column, column_texts, parquet_texts
from nanogpt_kit.corpus.sources import matching_files
from nanogpt_kit.corpus.text_files import ENDINGS, TextFile

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
PARQUET_BRANCH = "refs/convert/parquet"  # converted by the hub: <config>/<split>/0000.parquet
NETWORK_MODULES = (
    "httpx",
    "httpx2",
    "requests",
    "urllib3",
    "aiohttp",
    "huggingface_hub",
)  # modules of exceptions about the network
DESCRIPTIVE_OPTIONS = (
    "name",
    "version",
    "description",
    "data_dir",
    "data_files",
)  # a builder's options that do not change how files are read
BATCH_ROWS = 256
BUFFER_BYTES = 8 << 20  # of a remote file, per request
HUB_TIMEOUT_SECONDS = 10  # for the hub's first response


@dataclass(frozen=True)
class HubText:
    """One column of a dataset. Nothing is read or downloaded before a method needs it."""

    source: str  # a name on the hub, or local files: a path, a glob, a folder
    config: str | None
    revision: str | None
    field: str
    streaming: bool

    def texts(self, split: str) -> Iterator[Document]:
        """The rows; null becomes "". Raises KitError, and ConnectionError where the connection is lost midway."""
        started = False
        with silence_libraries():
            try:
                for text in self._texts(split):
                    started = True
                    yield text
            except KitError:
                raise
            except Exception as error:  # the library passes on those of many other libraries
                raise self._explain(error, started) from error

    def identity(self) -> list[Any]:
        """Values that decide the texts: hashes of local files, else the names on the hub."""
        files = self._files()
        if not files:
            return [self.source, self.config, self.revision, self.field]
        folder = Path(self.source).is_dir()  # names in a folder decide the splits
        names = [path.relative_to(self.source).as_posix() if folder else "".join(path.suffixes) for path in files]
        return [self.config, self.field, [[name, content_hash(path)] for name, path in zip(names, files, strict=True)]]

    def check_source(self) -> None:
        """Raises KitError for a local file or folder that does not exist; names on the hub are not looked up."""
        self._files()

    def text_bytes(self, splits: Iterable[str]) -> int | None:
        """The size of the text by the sizes of the files or the hub's description; None where they do not give it."""
        files = [path for path in self._files() if path.name.lower().endswith(tuple(BUILDERS) + tuple(CODECS))]
        if files:
            all_known = all(path.name.lower().endswith(ENDINGS) for path in files)
            sizes = [TextFile(path, self.field).text_bytes() for path in files] if all_known else [None]
        else:
            with silence_libraries():
                try:
                    info = self._builder().info
                except Exception as error:
                    raise self._explain(error, started=False) from error
            only_text = info.splits and list(info.features or ()) == [self.field]  # sizes are those of all columns
            sizes = [info.splits[split].num_bytes if only_text and split in info.splits else None for split in splits]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _files(self) -> list[Path]:
        """The local files; empty for a name on the hub. Raises KitError for a source that is neither."""
        files = matching_files(self.source)
        looks_local = self.source.lower().endswith((*BUILDERS, *CODECS)) or not HUB_NAME.fullmatch(self.source)
        if not files and Path(self.source).is_dir():
            raise KitError(f"dataset.source: {self.source!r} is a folder without files")
        if not files and looks_local:
            where = f"relative to {Path.cwd()}, and is not a name on the hub{escape_remedy(self.source)}"
            raise KitError(f"dataset.source: {self.source!r} matches no file or folder, {where}")
        return files

    def _builder(self) -> Any:
        from datasets import load_dataset_builder  # type: ignore[import-untyped]

        files = self._files()
        if not files:
            # in the branch that the hub converts, configs are folders
            config = {"data_dir": self.config} if self.revision == PARQUET_BRANCH else {"name": self.config}
            with offline_where_unreachable():
                return load_dataset_builder(self.source, revision=self.revision, **config)
        if Path(self.source).is_dir():
            return load_dataset_builder(self.source, name=self.config)
        endings = {inner_ending(path) for path in files}
        if len(endings) != 1 or not endings <= BUILDERS.keys():
            allowed, found = ", ".join(BUILDERS), ", ".join(sorted(ending or "none" for ending in endings))
            raise KitError(f"dataset.source: {self.source!r} should have one ending of {allowed}; it has {found}")
        kind = BUILDERS[endings.pop()]
        options = {} if kind != "csv" or self.streaming else {"keep_default_na": False}  # NA may be a word
        return load_dataset_builder(kind, data_files={"train": [str(path) for path in files]}, **options)

    def _texts(self, split: str) -> Iterator[Document]:
        for path in self._files():
            if path.name.lower().endswith(ENDINGS):  # the library would accept NULs as text
                TextFile(path, self.field).check()
        builder = self._builder()
        files = builder.config.data_files or {}
        names = [str(name) for name in files or builder.info.splits or ()]
        if names and split.isidentifier() and split not in names:
            raise KitError(f"{self.source!r} has no split {split!r}{did_you_mean(split, names)}")
        if self.streaming and not split.isidentifier():
            raise KitError(f"{split!r} is a part of a split, which requires dataset.streaming = false")
        paths = list(files.get(split, ()))
        if self.streaming and paths and all(map(is_read_by_kit, paths)) and has_default_reader_options(builder.config):
            # The library's own readers hold whole row groups, read NA as a missing value and do not locate faults; and
            # their threads can abort the process when it ends.
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
            yield from column_texts(table[self.field])

    def _read(self, path: str) -> Iterator[Document]:
        """A local file, or a .parquet on the hub where the path has a scheme."""
        if "://" not in path:
            yield from TextFile(Path(path), self.field).documents()
            return
        from datasets import config
        from huggingface_hub import HfFileSystem
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

        with HfFileSystem(endpoint=config.HF_ENDPOINT).open(path, "rb", block_size=BUFFER_BYTES) as remote:
            file = ParquetFile(remote, buffer_size=BUFFER_BYTES, pre_buffer=False)
            yield from parquet_texts(file, self.field, path)

    def _explain(self, error: Exception, started: bool) -> Exception:
        """A KitError or ConnectionError for an exception of the library."""
        name = f"dataset.source: {self.source!r}"
        while type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
            error = error.__cause__  # the library hides the cause
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2]) or type(error).__name__
        if "StopIteration" in reason:  # of the library's reader of .json
            return KitError(f"{name} contains no text: a file is empty")
        if "scripts are no longer supported" in reason:
            remedy = (
                f'dataset.revision="{PARQUET_BRANCH}" reads the hub\'s conversion (the first 5 GB of large datasets)'
            )
            return KitError(f"{name} requires its loading script, which is not supported; {remedy}")
        remote = not self._files()
        network = type(error).__module__.partition(".")[0] in NETWORK_MODULES or isinstance(
            error, ConnectionError | TimeoutError
        )
        if remote and network and started:  # the preparation keeps what it has, and can be continued
            return ConnectionError(f"{name}: the connection to the hub was lost: {reason}")
        if remote and network:
            remedy = "set dataset.source to a local parquet file or folder, or use another dataset"
            return KitError(f"{name} is not a local file or folder, and the hub cannot be reached; {remedy}")
        if type(error).__name__ == "DatasetNotFoundError":
            return KitError(f"{name} cannot be read: {reason} Check the spelling; gated datasets need `hf auth login`")
        if "config" in reason.lower() and isinstance(error, ValueError):
            return KitError(f"{name} cannot be read: {reason}; set dataset.config to one of them")
        return KitError(f"{name} cannot be read: {reason}")


def is_read_by_kit(path: str) -> bool:
    """Not a .txt: to the library each of its lines is a document, to TextFile the whole file."""
    return path.endswith(".parquet" if "://" in path else tuple(end for end in ENDINGS if not end.startswith(".txt")))


def has_default_reader_options(config: Any) -> bool:
    """True where the dataset's own description does not change how its files are read."""
    defaults = vars(type(config)())
    return all(value == defaults.get(key) for key, value in vars(config).items() if key not in DESCRIPTIVE_OPTIONS)


def inner_ending(path: Path) -> str:
    """The ending of a name, without that of a compression."""
    return (path.with_suffix("") if path.suffix.lower() in CODECS else path).suffix.lower()


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Hides the libraries' progress bars and log lines, which repeat the error that follows."""
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
    """Sets the libraries offline where the hub does not respond; else they retry for 80 s before using their cache."""
    from datasets import config
    from huggingface_hub import constants, get_session

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not any(before):
        try:
            get_session().head(config.HF_ENDPOINT, timeout=HUB_TIMEOUT_SECONDS)
        except Exception:  # of one HTTP library or another
            config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
