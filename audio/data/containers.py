"""Containers of audio files: repair wrong sizes in WAV headers, recognize truncated files.

The size of the whole file in a WAV or AIFF header is ignored: many programs write a wrong one.

- Samples are the content of the `data` chunk (`SSND` in AIFF).
- A `data` chunk of unknown size, as streaming programs leave it, extends to the end of the file. Its header
  states 0 although bytes follow, or at least UNKNOWN_SIZE.
- A chunk of another kind may be cut or lack its pad byte.
- A file that ends before its samples do is truncated.
"""

import io
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

UNKNOWN_SIZE = 0x7FFF_0000
"""Smallest size in a WAV header that means an unknown length, as programs write into a pipe."""
LARGEST_SIZE = (1 << 32) - 1
FORMS = {b"RIFF": ("<", b"data"), b"FORM": (">", b"SSND")}
"""Byte order, and id of the chunk of samples, by the first four bytes of a file."""
KINDS = (b"WAVE", b"AIFF", b"AIFC")
MAX_CHUNKS, MAX_FORMAT = 10_000, 4096
OGG_PAGE, OGG_HEADER, OGG_LAST = b"OggS", 27, 4
MP3_SIZE_KNOWN = 2


class Chunk(NamedTuple):
    """Chunk of a file: id, size in its header, start of its content, and bytes of it in the file."""

    id: bytes
    size: int
    start: int
    present: int


def sound_source(path: Path) -> Path | BinaryIO:
    """Return the file for libsndfile: the path, or the samples of a WAV file behind a correct header.

    Raises ValueError for a truncated file, and OSError for an unreadable one.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        form = file.read(4)
        if form in FORMS:
            return _riff_source(file, end, form, path)
        if form == OGG_PAGE and _ogg_is_truncated(file, end):
            raise _truncated(path)
        if _mp3_is_truncated(file, end):
            raise _truncated(path)
    return path


def _riff_source(file: BinaryIO, end: int, form: bytes, path: Path) -> Path | BinaryIO:
    order, samples_id = FORMS[form]
    size, kind = file.read(4), file.read(4)
    if len(kind) == 4 and kind not in KINDS:
        return path
    stated = struct.unpack(f"{order}I", size)[0] if len(size) == 4 else UNKNOWN_SIZE - 1
    chunks, is_padded = _read_chunks(file, end, order, samples_id)
    samples = next((chunk for chunk in chunks if chunk.id == samples_id), None)
    if samples is None:
        if end - 8 < stated < UNKNOWN_SIZE:
            raise _truncated(path)
        return path
    is_unknown = form == b"RIFF" and (
        samples.size >= UNKNOWN_SIZE or (samples.size == 0 and stated != end - 8)
    )
    if samples.present < samples.size and not is_unknown:
        raise _truncated(path)
    layout = next((chunk for chunk in chunks if chunk.id == b"fmt "), None)
    if form != b"RIFF" or layout is None or (is_padded and not is_unknown):
        return path
    file.seek(layout.start)
    encoding = file.read(min(layout.present, MAX_FORMAT))
    file.seek(samples.start)
    return _wav_file(encoding, file.read(end if is_unknown else samples.size))


def _read_chunks(file: BinaryIO, end: int, order: str, last: bytes) -> tuple[list[Chunk], bool]:
    """Return the chunks of a file up to the chunk `last`, and whether each has its pad byte."""
    chunks: list[Chunk] = []
    start, is_padded = 12, True
    while start + 8 <= end and len(chunks) < MAX_CHUNKS:
        file.seek(start)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        chunks.append(Chunk(name, size, start + 8, min(size, end - start - 8)))
        if name == last:
            break
        start += 8 + size
        if size % 2:
            file.seek(start)
            if _is_id(file.read(4)):
                is_padded = False
            else:
                start += 1
    return chunks, is_padded


def _is_id(text: bytes) -> bool:
    """Return whether bytes can be the id of a chunk: four printable characters."""
    return len(text) == 4 and all(32 <= byte < 127 for byte in text)


def _wav_file(encoding: bytes, samples: bytes) -> BinaryIO:
    """Return a WAV file in memory. encoding: content of its `fmt ` chunk."""
    pad = bytes(len(encoding) % 2)
    size = min(len(samples), LARGEST_SIZE)
    whole = min(20 + len(encoding) + len(pad) + size, LARGEST_SIZE)
    header = struct.pack("<4sI4s4sI", b"RIFF", whole, b"WAVE", b"fmt ", len(encoding))
    return io.BytesIO(b"".join([header, encoding, pad, struct.pack("<4sI", b"data", size), samples]))


def _ogg_is_truncated(file: BinaryIO, end: int) -> bool:
    """Return whether the last page lacks the mark of the end of a stream, or is incomplete."""
    file.seek(max(0, end - (1 << 17)))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail[max(0, tail.rfind(OGG_PAGE)) :]
    if len(page) < OGG_HEADER or len(page) < OGG_HEADER + page[OGG_HEADER - 1]:
        return True
    segments = page[OGG_HEADER : OGG_HEADER + page[OGG_HEADER - 1]]
    return not page[5] & OGG_LAST or len(page) < OGG_HEADER + len(segments) + sum(segments)


def _mp3_is_truncated(file: BinaryIO, end: int) -> bool:
    """Return whether an MP3 file is shorter than the Xing tag of its encoder says."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(256)
    if frame[:1] != b"\xff":
        return False
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or len(frame) < place + 16:
        return False
    flags, first, second = struct.unpack(">III", frame[place + 4 : place + 16])
    if not flags & MP3_SIZE_KNOWN:
        return False
    return end - start < (second if flags & 1 else first)


def _truncated(path: Path) -> ValueError:
    return ValueError(f"{path} is truncated: shorter than its header says. Replace or remove it.")
