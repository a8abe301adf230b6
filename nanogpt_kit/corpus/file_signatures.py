"""Recognizes file formats by first bytes and by name, so that only text is read as text."""

from __future__ import annotations

import codecs
import pickletools
import re
import zlib
from pathlib import Path

HEAD_BYTES = 4096  # enough for all formats: the magic of a tar archive is at byte 257

MAGIC_PATTERNS = [  # at least four bytes each, since token ids may be any bytes
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
    (rb"[^/]+/(data\.pkl|\.format_version|\.data/|byteorder|version)", "a PyTorch checkpoint (.pt)"),
    (rb"[^/]+\.npy", "an archive of NumPy arrays (.npz)"),
]
BY_ENDING = {
    **dict.fromkeys((".bz2", ".xz", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar"), "compressed data"),
    **dict.fromkeys((".npz",), "NumPy arrays"),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".onnx"), "model weights"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "a pickle"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb"), "a database"),
    **dict.fromkeys((".h5", ".hdf5", ".feather", ".orc", ".avro", ".msgpack", ".mdb"), "a table or records"),
    **dict.fromkeys((".xls", ".xlsx", ".xlsm", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".mobi", ".ppt", ".pptx"), "a document"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"), "an image"),
    **dict.fromkeys((".mp3", ".wav", ".flac", ".ogg", ".mp4", ".mkv", ".avi", ".mov"), "sound or film"),
    **dict.fromkeys((".exe", ".so", ".dll", ".pyc", ".o"), "binary data"),
}
BOMS = [  # the longer ones first: the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
ENOUGH_OPCODES = 20  # of a pickle: token ids do not form this many by chance
# NULs per character in UTF-16 without a byte order mark; fewer are accidental. Chinese has the fewest, and its UTF-16
# is never valid UTF-8, unlike that of Russian, whose spaces contain NULs.
MIN_NULS, MIN_NULS_IN_UTF8 = 1 / 50, 1 / 12
SCRIPTS = (*range(1, 9), *range(14, 27), *range(28, 32))  # upper bytes of U+0100 to U+1FFF that text never contains
CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # characters that text does not contain

MAGIC = [(re.compile(magic, re.DOTALL), name) for magic, name in MAGIC_PATTERNS]


def detect_format(head: bytes) -> str | None:
    """The binary format that a file's first HEAD_BYTES are in; None where it is not known."""
    detected = next((name for magic, name in MAGIC if magic.match(head)), None)
    if detected == "a zip archive":
        inside = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return next((name for first, name in IN_ZIP if re.match(first, inside)), detected)
    if detected == "gzip" and not is_valid_gzip(head):
        return None
    return detected or ("a pickle" if is_pickle(head) else None)


def is_valid_gzip(head: bytes) -> bool:
    try:
        return bool(zlib.decompressobj(wbits=31).decompress(head, 1)) or len(head) < HEAD_BYTES
    except zlib.error:
        return False


def is_pickle(head: bytes) -> bool:
    """True where the first bytes are a protocol and opcodes; nothing is executed."""
    if re.match(rb"\x80[\x04\x05]\x95.{5}\0{3}", head, re.DOTALL):  # a frame, with its length
        return True
    if not re.match(rb"\x80[\x02-\x05]", head):
        return False
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            count += 1
            if opcode.name == "STOP" or count == ENOUGH_OPCODES:
                return True
    except (ValueError, IndexError):  # not an opcode, or one that the head cuts off
        pass
    return False


def why_not_text(path: Path) -> str | None:
    """Why files of this name are not read as text, and a remedy; None where they may be. Ignores .gz and .zst."""
    ending = (path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path).suffix.lower()
    if ending in (".json", ".arrow"):
        return f'cannot be read as text; dataset.use = "huggingface" can read {ending}'
    if ending in (".bin", ".npy"):
        return f'cannot be read as text; dataset.use = "token_files" reads the tokens of {ending}'
    content = BY_ENDING.get(ending)
    return f"cannot be read as text: {ending} files contain {content}; unpack or convert the file" if content else None


def is_text(head: bytes, encoding: str = "utf-8") -> bool:
    """True where the first bytes are characters without control characters; the last one may be cut off."""
    text = decode_head(head, encoding)
    return text is not None and not CONTROL.search(text)


def decode_head(head: bytes, encoding: str) -> str | None:
    """None where the bytes are not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def encoding_by_bom(head: bytes) -> str | None:
    """The encoding that a byte order mark names, except UTF-8; None for other text."""
    return next((codec for mark, codec in BOMS if head.startswith(mark)), None)


def guess_utf16_or_32(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, which has NULs at regular positions; None for anything else.

    Text of one script without spaces has the script's upper byte in place of NULs.
    """
    script = max(SCRIPTS, key=head.count)
    mark = script if 4 * head.count(script) > len(head) else 0
    nuls = head.count(mark)
    if not nuls:
        return None
    fewest = len(head) / 2 * (MIN_NULS_IN_UTF8 if decode_head(head, "utf-8") is not None else MIN_NULS)
    for name, first in (("UTF-32LE", None), ("UTF-32BE", None), ("UTF-16LE", 1), ("UTF-16BE", 0)):
        there = nuls if first is None else head[first::2].count(mark)  # the others belong to characters such as U+0100
        regular = there >= fewest and there > nuls - there
        if regular and is_text(head, name):
            return name
    return None
