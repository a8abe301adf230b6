"""What a file is by its first bytes and by the ending of its name, so that only text is read as text."""

from __future__ import annotations

import codecs
import pickletools
import re
import zlib
from pathlib import Path

HEAD_BYTES = 4096  # that are looked at; the magic of a tar archive stands at byte 257

BY_MAGIC = [  # at least four bytes each, since tokens may be any bytes
    (rb"\x93NUMPY", "a NumPy array (.npy)"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive"),
    (rb"\x1f\x8b\x08[\0-\x1f]", "gzip"),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd"),
    (rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", "bzip2"),
    (rb"\xfd7zXZ\0", "xz"),
    (rb"\x04\x22\x4d\x18", "lz4"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a rar archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"PAR[1E]", "parquet"),
    (rb"ARROW1\0\0|\xff{4}.{2}\0\0\x10\0\0\0", "Arrow"),
    (rb"FEA1\0", "Feather"),
    (rb"Obj\x01", "Avro"),
    (rb"SQLite format 3\0", "an SQLite database"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5"),
    (rb".{6}\0\0\{ *\"", "safetensors"),
    (rb"GGUF[\x01-\x09]\0", "GGUF"),
    (rb"MMIDIDX\0\0", "the index of a Megatron-LM data set"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (rb"%PDF-\d\.\d\s*[\r\n]", "PDF"),
    (rb"\{\\rtf1?\s*[\\{]", "RTF"),
    (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
    (rb"\xff\xd8\xff[\xc0-\xfe]", "a JPEG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"RIFF.{4}(WEBP|WAVE|AVI )", "an image, a sound or a film"),
    (rb"\0\0\0.ftyp", "a film"),
    (rb"\x7fELF", "a program"),
]
IN_ZIP = [  # by the name of an archive's first file
    (rb"\[Content_Types\]\.xml|_rels/|docProps/|word/|xl/", "an Office document (.xlsx, .docx)"),
    (rb"[^/]+/(data\.pkl|\.format_version|\.data/|byteorder|version)", "a checkpoint of PyTorch (.pt)"),
    (rb"[^/]+\.npy", "an archive of NumPy arrays (.npz)"),
]
BY_ENDING = {
    **dict.fromkeys((".bz2", ".xz", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar"), "compressed data"),
    **dict.fromkeys((".npz",), "NumPy arrays"),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".onnx"), "weights of a model"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "a pickle"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb"), "a database"),
    **dict.fromkeys((".h5", ".hdf5", ".feather", ".orc", ".avro", ".msgpack", ".mdb"), "a table or records"),
    **dict.fromkeys((".xls", ".xlsx", ".xlsm", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".mobi", ".ppt", ".pptx"), "a document"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"), "an image"),
    **dict.fromkeys((".mp3", ".wav", ".flac", ".ogg", ".mp4", ".mkv", ".avi", ".mov"), "sound or film"),
    **dict.fromkeys((".exe", ".so", ".dll", ".pyc", ".o"), "binary data"),
}
BOMS = [  # the longer ones first: one of UTF-32 begins like one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
MANY_OPCODES = 20  # of a pickle: tokens do not look like as many by chance
# NULs a character in UTF-16 without a byte order mark; fewer are stray ones. Chinese has the fewest, and is never valid
# UTF-8 at the same time, unlike Russian, whose blanks hold them.
FEWEST_NULS, FEWEST_IN_UTF8 = 1 / 50, 1 / 12
SCRIPTS = (*range(1, 9), *range(14, 27), *range(28, 32))  # upper bytes of U+0100 to U+1FFF that text never holds
CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # characters that text does not hold

MAGIC = [(re.compile(magic, re.DOTALL), name) for magic, name in BY_MAGIC]


def by_magic(head: bytes) -> str | None:
    """The binary format that a file's first HEAD_BYTES are of; None where they are of none that is known."""
    found = next((name for magic, name in MAGIC if magic.match(head)), None)
    if found == "a zip archive":
        inside = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return next((name for first, name in IN_ZIP if re.match(first, inside)), found)
    if found == "gzip" and not unpacks(head):
        return None
    return found or ("a pickle" if is_pickle(head) else None)


def unpacks(head: bytes) -> bool:
    try:
        return bool(zlib.decompressobj(wbits=31).decompress(head, 1)) or len(head) < HEAD_BYTES
    except zlib.error:
        return False


def is_pickle(head: bytes) -> bool:
    """Whether its first bytes are a protocol and opcodes; nothing is executed."""
    if re.match(rb"\x80[\x04\x05]\x95.{5}\0{3}", head, re.DOTALL):  # a frame, with its length
        return True
    if not re.match(rb"\x80[\x02-\x05]", head):
        return False
    seen = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            seen += 1
            if opcode.name == "STOP" or seen == MANY_OPCODES:
                return True
    except (ValueError, IndexError):  # not an opcode, or one that the head does not hold whole
        pass
    return False


def not_text(path: Path) -> str | None:
    """Why files of such a name are not read as text, with a remedy; None where they may be. A .gz is what it packs."""
    ending = (path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path).suffix.lower()
    if ending in (".json", ".arrow"):
        return f'cannot be read as text; dataset.use = "huggingface" can read {ending}'
    if ending in (".bin", ".npy"):
        return f'cannot be read as text; dataset.use = "token_files" reads the tokens of {ending}'
    content = BY_ENDING.get(ending)
    return f"cannot be read as text: {ending} files contain {content}; unpack or convert it" if content else None


def is_text(head: bytes, encoding: str = "utf-8") -> bool:
    """Whether the first bytes are characters without control characters; the last one may be cut."""
    text = characters(head, encoding)
    return text is not None and not CONTROL.search(text)


def characters(head: bytes, encoding: str) -> str | None:
    """None where the bytes are not of this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def marked(head: bytes) -> str | None:
    """The codec of text with a byte order mark that is not UTF-8's; None for other text."""
    return next((codec for mark, codec in BOMS if head.startswith(mark)), None)


def unmarked(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, which NULs at regular places betray; None for everything else.

    Where letters are of one script and no blank is between them, its number is at these places.
    """
    script = max(SCRIPTS, key=head.count)
    mark = script if 4 * head.count(script) > len(head) else 0
    nuls = head.count(mark)
    if not nuls:
        return None
    fewest = len(head) / 2 * (FEWEST_IN_UTF8 if characters(head, "utf-8") is not None else FEWEST_NULS)
    for name, first in (("UTF-32LE", None), ("UTF-32BE", None), ("UTF-16LE", 1), ("UTF-16BE", 0)):
        there = nuls if first is None else head[first::2].count(mark)  # the others are of characters such as U+0100
        regular = there >= fewest and there > nuls - there
        if regular and is_text(head, name):
            return name
    return None
