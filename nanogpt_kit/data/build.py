"""Makes a folder of prepared data: whole or not at all, and continued after a kill."""

from __future__ import annotations

import logging
import lzma
import platform
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from operator import mul
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.core.options import digest
from nanogpt_kit.data import pretokenized
from nanogpt_kit.data.chunks import CorpusStats, TextChunk, text_chunks
from nanogpt_kit.data.encode import encode_chunks, token_dtype
from nanogpt_kit.data.encoders import make_encoder
from nanogpt_kit.data.manifest import MANIFEST, DataManifest, DatasetRecord, SplitRecord
from nanogpt_kit.data.prepared_data import check_block_size, check_counted, data_files
from nanogpt_kit.data.progress import ProgressReport
from nanogpt_kit.data.source_hashes import with_source_hashes
from nanogpt_kit.data.tokenizer_record import TokenizerRecord
from nanogpt_kit.data.unfinished_file import StalePreparation
from nanogpt_kit.data.writer import JOURNAL, TokenWriter, check_free_space
from nanogpt_kit.runs.files import check_inside
from nanogpt_kit.runs.lock import is_locked
from nanogpt_kit.system.folders import folder_bytes
from nanogpt_kit.system.writing import sync_folder

logger = logging.getLogger(__name__)

REFERENCE_BYTES = 1_000_000  # of validation text that compressors are tried on: xz takes half a second for them

References = dict[str, float]  # compressor -> bits per byte


def build_data_folder(
    experiment: Experiment, dataset: DatasetRecord, path: Path, state: Mapping[str, Any] | None, workers: int
) -> None:
    """Makes the folder `path`, or continues where a killed process or a full disk left it unfinished.

    `state` is that of the tokenizer where it comes from a run.
    """
    partial = path.with_name(f".{path.name}.{platform.node()}")
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise KitError(f"{partial} is not a folder; remove it to prepare the data there")
    partial.mkdir(exist_ok=True)
    check_inside(partial)
    manifest: DataManifest | None = None
    continues = (partial / JOURNAL).exists()
    if not continues:
        report_stale_folders(partial, path)
    try:
        if not (partial / MANIFEST).exists():
            try:
                manifest = write_data(experiment, dataset, partial, state, workers)
            except StalePreparation as error:  # a branch on the hub moved, a library learns otherwise, a disk lost bits
                logger.warning("cannot continue an unfinished preparation: %s; starting again", error)
                shutil.rmtree(partial)
                partial.mkdir()
                manifest = write_data(experiment, dataset, partial, state, workers)
        for leftover in (partial / JOURNAL, *partial.glob(".*")):
            leftover.unlink(missing_ok=True)
        partial.rename(path)
        sync_folder(path.parent)
        for file in data_files(path, manifest) if manifest else ():
            file.cache_hash()
    except OSError as error:
        if (path / MANIFEST).exists():  # another machine was faster, and its data is the same
            shutil.rmtree(partial, ignore_errors=True)
            return
        raise KitError(f"the data of {path} cannot be prepared: {error}{partial_data_note(partial)}") from error
    except RunFailed as error:
        raise RunFailed(f"{error}{partial_data_note(partial)}") from error
    except KeyboardInterrupt:
        kept = partial_data_note(partial) or "; nothing is kept, so the same command starts again"
        logger.info("stopped before %s was complete%s", path, kept)
        raise
    except BaseException as error:
        if continues and isinstance(error, KitError):  # no network, no space: the data on disk is still good
            raise KitError(f"{error}{partial_data_note(partial)}") from error
        shutil.rmtree(partial, ignore_errors=True)
        raise


def report_stale_folders(partial: Path, path: Path) -> None:
    """Logs this machine's unfinished preparations of other text or options, which no command continues."""
    suffix, prefix = partial.name.removeprefix(f".{path.name}"), f".{path.name.rpartition('-')[0]}-"
    folders = [folder for folder in path.parent.glob(f"{prefix}*{suffix}/") if folder != partial]
    stale = [
        folder
        for folder in folders
        if (folder / JOURNAL).exists() and not is_locked(folder.with_name(f"{folder.name.removesuffix(suffix)}.lock"))
    ]
    if stale:
        size = f"{sum(map(folder_bytes, stale)) / 1e6:,.0f} MB"
        names = ", ".join(map(str, stale))
        logger.info("unfinished preparations of other text or options use %s; they can be removed: %s", size, names)


def partial_data_note(partial: Path) -> str:
    """The end of a message: where the unfinished data is. Removes a folder that cannot be continued."""
    if not (partial / JOURNAL).exists():
        shutil.rmtree(partial, ignore_errors=True)
        return ""
    return f"; {folder_bytes(partial) / 1e6:,.0f} MB are kept in {partial}, and the same command continues from there"


def write_data(
    experiment: Experiment, dataset: DatasetRecord, folder: Path, state: Mapping[str, Any] | None, workers: int
) -> DataManifest:
    """Writes all files of the data, the manifest last, and returns it."""
    started = time.perf_counter()
    source, tokenizer = experiment.dataset, experiment.entry_of(experiment.tokenizer).name
    logger.info("preparing %s as %s tokens", dataset.use, tokenizer)
    encoder = make_encoder(experiment.tokenizer, source, state)
    n_sources = len(source.sources)
    stats = CorpusStats(source.splits, source.has_own_splits, REFERENCE_BYTES, n_sources)
    with (
        TokenWriter(folder, source.splits, digest(encoder.state()), n_sources) as writer,
        ThreadPoolExecutor(1) as compressing,
    ):
        if writer.chunks_on_disk:
            logger.info("continuing an unfinished preparation")
        if pretokenized.has_tokens(source):
            pretokenized.copy_tokens(source, encoder, writer, stats)
            references = [compressing.submit(compressor_references, bytes(text)) for text in stats.validation_samples]
        else:
            references = encode_dataset(experiment, encoder, writer, stats, compressing, workers)
        splits = writer.finish()
        of_sources = [future.result() for future in references]
    if not splits["val"].counted:  # else the loss is of some spans, and a compressor's result of the whole text
        splits["val"] = splits["val"].model_copy(update={"references": references_of_split(of_sources, splits["val"])})
    for split, count in stats.duplicates.items():
        splits[split] = splits[split].model_copy(update={"duplicates": count})
        if count:
            logger.warning("%d documents of %s are also in a smaller split", count, split)
    for split, text in stats.text_hashes.items():
        splits[split] = splits[split].model_copy(update={"text_sha256": text.sha256.hexdigest()})
        splits[split] = with_source_hashes(splits[split], folder, split, token_dtype(encoder), stats.source_hashes)
    check_block_size(splits, experiment.model.block_size, tuple(source.sources))
    check_counted(splits, tuple(source.sources))
    if source.fingerprint() != dataset.fingerprint:
        raise KitError("the text changed while it was read; prepare it again")
    record = TokenizerRecord.of(experiment, encoder)
    manifest = DataManifest.make(dataset, record, token_dtype(encoder).name, splits)
    manifest.write(folder)
    size, seconds = sum(split.bytes for split in splits.values()), time.perf_counter() - started
    counts = ", ".join(f"{name} {split.tokens:,} tokens{counted_note(split)}" for name, split in splits.items())
    speed = f" ({size / 1e6 / seconds:.1f} MB/s)" if seconds > 1 and not writer.chunks_on_disk else ""
    amount = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
    logger.info("prepared %s of text in %.1f s%s: %s", amount, seconds, speed, counts)
    return manifest


def counted_note(split: SplitRecord) -> str:
    return f" ({split.counted.tokens:,} count)" if split.counted else ""


def encode_dataset(
    experiment: Experiment,
    encoder: Encoder,
    writer: TokenWriter,
    stats: CorpusStats,
    compressing: ThreadPoolExecutor,
    workers: int,
) -> list[Future[References]]:
    """Encodes the chunks that `writer` does not have yet. Returns the references of each source's validation text."""
    total = experiment.dataset.text_bytes()
    references: list[Future[References]] = []
    with ProgressReport(total, "tokenizing") as progress:
        chunks = skip_written(text_chunks(experiment.dataset, encoder, stats), writer, progress)
        for index, (chunk, encoded) in enumerate(encode_chunks(chunks, encoder, experiment, total, workers)):
            if index == 0 and total and encoded.text_bytes:
                disk_bytes_per_byte = (encoded.ids.nbytes + encoded.document_starts.nbytes) / encoded.text_bytes
                check_free_space(writer.folder, (total - progress.bytes_read) * disk_bytes_per_byte)
            writer.add(chunk.split, encoded, chunk.empty_documents, chunk.checksum, chunk.source)
            progress.add(encoded.text_bytes, processed=True)
            if not references and len(stats.validation_samples[0]) == REFERENCE_BYTES:
                references.append(compressing.submit(compressor_references, bytes(stats.validation_samples[0])))
    rest = stats.validation_samples[len(references) :]
    return references + [compressing.submit(compressor_references, bytes(text)) for text in rest]


def skip_written(chunks: Iterator[TextChunk], writer: TokenWriter, progress: ProgressReport) -> Iterator[TextChunk]:
    """The chunks that are not on disk yet; the text of the others is read again, but not encoded."""
    for chunk in chunks:
        if writer.skip(chunk.checksum):
            progress.add(sum(len(text.encode("utf-8", "replace")) for text in chunk.texts), processed=False)
        else:
            yield chunk


def compressor_references(text: bytes) -> References:
    """Bits per byte that compressors need for the validation text; see the evaluator bits_per_byte."""
    note = f" on {len(text) / 1e6:.0f} MB" if len(text) == REFERENCE_BYTES else ""
    sizes = {"gzip -9": len(zlib.compress(text, 9, wbits=31)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name + note: size * 8 / max(1, len(text)) for name, size in sizes.items()}


def references_of_split(of_sources: list[References], split: SplitRecord) -> References:
    """Those of the sources together, each with the weight of its text."""
    if len(of_sources) == 1:
        return of_sources[0]
    values = [list(references.values()) for references in of_sources]
    fractions = [source.bytes / max(1, split.bytes) for source in split.sources]
    names = max(of_sources, key=lambda references: max(map(len, references)))  # a note, where one source has one
    return {name: sum(map(mul, fractions, column)) for name, *column in zip(names, *values, strict=True)}
