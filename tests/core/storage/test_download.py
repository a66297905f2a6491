"""A download is complete and verified or absent, whatever the server does."""

import base64
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import core.storage.http
from core.storage.download import Source, TransferError, as_command, fetch, read_sources
from tests.core.storage.file_server import Answer, FileServer, file_server

BODY = bytes(range(256)) * 1000 + b"end"  # several chunks and a rest
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(core.storage.http, "PAUSE", 0)
    with file_server() as server:
        server.files["/a/file.bin"] = BODY
        yield server


def source_on(server: FileServer, **known: object) -> Source:
    return Source(address=f"{server.address}/a/file.bin", file="sub/file.bin", **known)  # type: ignore[arg-type]


def final(folder: Path) -> Path:
    return folder / "sub" / "file.bin"


def part(folder: Path) -> Path:
    return folder / "sub" / "file.bin.part"


def leave_part(folder: Path, content: bytes) -> None:
    """Write the leftovers of a killed run."""
    part(folder).parent.mkdir(parents=True)
    part(folder).write_bytes(content)
    part(folder).with_name("file.bin.part.tag").write_text('"first"')


@pytest.mark.parametrize("length", [0, 1, core.storage.http.CHUNK, len(BODY)])
def test_file_arrives_complete_and_alone(server: FileServer, tmp_path: Path, length: int) -> None:
    server.files["/a/file.bin"] = BODY[:length]
    checksum = f"md5:{hashlib.md5(BODY[:length]).hexdigest()}"
    path = fetch(source_on(server, size=length, checksum=checksum), tmp_path)
    assert path == final(tmp_path)
    assert path.read_bytes() == BODY[:length]
    assert list(path.parent.iterdir()) == [path]


def test_verified_file_is_not_requested_again(server: FileServer, tmp_path: Path) -> None:
    source = source_on(server, checksum=SHA256)
    fetch(source, tmp_path)
    server.requests.clear()
    assert fetch(source, tmp_path) == final(tmp_path)
    assert server.requests == []


def test_damaged_file_is_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    source = source_on(server, checksum=SHA256)
    fetch(source, tmp_path).write_bytes(BODY[:-1] + b"?")
    assert fetch(source, tmp_path).read_bytes() == BODY


def test_broken_download_resumes(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=100_000), Answer(stop_after=0), Answer(stop_after=80_000)]
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY
    first, *later = server.ranges()
    assert first == ""
    kept = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in later]
    assert kept[0] == kept[1] > 100_000 - core.storage.http.CHUNK
    assert 180_000 >= kept[2] > kept[1]


def test_short_range_is_continued(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=100_000)]
    server.otherwise = Answer(longest=50_000)
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


def test_breaks_with_progress_never_end_the_download(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=20_000)] * (2 * core.storage.http.ATTEMPTS)
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY


def test_server_without_ranges_restarts(server: FileServer, tmp_path: Path) -> None:
    server.otherwise = Answer(ranges=False)
    server.answers = [Answer(stop_after=100_000)]
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_no_resume_without_a_strong_validator(server: FileServer, tmp_path: Path, etag: str) -> None:
    server.otherwise = Answer(etag=etag)
    server.answers = [Answer(stop_after=100_000, etag=etag)]
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY
    assert server.ranges() == ["", ""]


def test_date_replaces_a_missing_etag(server: FileServer, tmp_path: Path) -> None:
    date = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.otherwise = Answer(if_range=False)
    server.answers = [Answer(stop_after=100_000, etag="", headers=date)]
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY
    assert server.ranges()[1].startswith("bytes=")


def test_changed_file_is_never_mixed(server: FileServer, tmp_path: Path) -> None:
    changed = BODY[::-1]
    server.answers = [Answer(stop_after=100_000)]
    server.otherwise = Answer(body=changed, etag='"second"')
    assert fetch(source_on(server), tmp_path).read_bytes() == changed


def test_mixed_file_fails_its_checksum(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=100_000)]
    server.otherwise = Answer(body=BODY[::-1], etag='"second"', if_range=False)
    with pytest.raises(TransferError, match=r"file\.bin is wrong: expected sha256"):
        fetch(source_on(server, checksum=SHA256), tmp_path)
    assert list((tmp_path / "sub").iterdir()) == []


def test_range_from_another_byte_is_rejected(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=100_000)]
    server.otherwise = Answer(shift=1)
    with pytest.raises(TransferError, match="for the bytes from"):
        fetch(source_on(server), tmp_path)
    assert not final(tmp_path).exists()


def test_complete_part_is_renamed(server: FileServer, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY)
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY
    assert server.ranges() == [f"bytes={len(BODY)}-"]
    leave_part(tmp_path / "known", BODY)
    server.requests.clear()
    assert fetch(source_on(server, size=len(BODY), checksum=SHA256), tmp_path / "known").read_bytes() == BODY
    assert server.requests == []


def test_part_longer_than_the_file_is_dropped(server: FileServer, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY + b"more")
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_temporary_error_is_retried(server: FileServer, tmp_path: Path, status: int) -> None:
    server.answers = [Answer(status=status), Answer(stop_after=100_000), Answer(status=status)]
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_permanent_error_fails_at_once(server: FileServer, tmp_path: Path, status: int) -> None:
    server.answers = [Answer(status=status)]
    with pytest.raises(TransferError, match=rf"HTTP {status} .*file\.bin"):
        fetch(source_on(server), tmp_path)
    assert len(server.requests) == 1
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


def test_download_stops_if_the_server_makes_no_progress(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(stop_after=100_000)]
    server.otherwise = Answer(stop_after=0)
    with pytest.raises(TransferError, match=r"attempts for .*file\.bin gave nothing new .*part keeps"):
        fetch(source_on(server), tmp_path)
    kept = part(tmp_path).read_bytes()
    assert 0 < len(kept) <= 100_000
    assert kept == BODY[: len(kept)]
    assert not final(tmp_path).exists()


def test_no_server_gives_one_sentence(server: FileServer, tmp_path: Path) -> None:
    nobody = Source(address="http://127.0.0.1:9/file.bin", file="file.bin")
    with pytest.raises(TransferError, match="Connection refused"):
        fetch(nobody, tmp_path)


@pytest.mark.parametrize("known", [{}, {"size": len(BODY)}, {"checksum": SHA256}])
def test_too_long_announced_length_gives_no_file(
    server: FileServer, tmp_path: Path, known: dict[str, object]
) -> None:
    server.otherwise = Answer(announced=str(len(BODY) + 10), ranges=False)
    with pytest.raises(TransferError, match=r"file\.bin"):
        fetch(source_on(server, **known), tmp_path)
    assert not final(tmp_path).exists()


def test_range_corrects_a_too_long_length(server: FileServer, tmp_path: Path) -> None:
    server.otherwise = Answer(announced=str(len(BODY) + 10))
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("known", [{"size": len(BODY)}, {"checksum": SHA256}])
def test_too_short_announced_length_gives_no_file(
    server: FileServer, tmp_path: Path, known: dict[str, object]
) -> None:
    server.otherwise = Answer(announced=str(len(BODY) - 10))
    with pytest.raises(TransferError, match=r"file\.bin"):
        fetch(source_on(server, **known), tmp_path)
    assert not final(tmp_path).exists()


def test_missing_length_needs_the_size(server: FileServer, tmp_path: Path) -> None:
    server.otherwise = Answer(announced="")
    with pytest.raises(TransferError, match="without its length"):
        fetch(source_on(server), tmp_path)
    server.answers = [Answer(announced="", stop_after=100_000)]
    assert fetch(source_on(server, size=len(BODY)), tmp_path).read_bytes() == BODY


def test_wrong_content_is_deleted_with_both_checksums(server: FileServer, tmp_path: Path) -> None:
    wrong = b"?" + BODY[1:]
    server.answers = [Answer(body=wrong)]
    with pytest.raises(TransferError) as caught:
        fetch(source_on(server, size=len(BODY), checksum=SHA256), tmp_path)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert list((tmp_path / "sub").iterdir()) == []
    assert fetch(source_on(server, checksum=SHA256), tmp_path).read_bytes() == BODY


def test_compressed_files_stay_compressed(server: FileServer, tmp_path: Path) -> None:
    server.otherwise = Answer(headers={"Content-Encoding": "gzip"})
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


def test_content_encoding_is_not_requested(server: FileServer, tmp_path: Path) -> None:
    server.otherwise = Answer(compresses=True)
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


def test_computed_checksum_is_stored_if_none_is_published(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(source_on(server), tmp_path)
    record = final(tmp_path).with_name("file.bin.sha256")
    assert record.read_text() == f"{SHA256.removeprefix('sha256:')}  file.bin\n"
    assert "no published checksum of file.bin" in caplog.text
    server.requests.clear()
    fetch(source_on(server), tmp_path)
    assert server.requests == []
    final(tmp_path).write_bytes(BODY[:10])
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


def test_unverified_file_is_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    final(tmp_path).parent.mkdir()
    final(tmp_path).write_bytes(BODY[:1000])
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY


def test_a_published_list_verifies(server: FileServer, tmp_path: Path) -> None:
    listed = source_on(server, checksum_list=f"{server.address}/a/md5sum.txt")
    server.files["/a/md5sum.txt"] = f"{'0' * 32}  other_file.bin\n{MD5}  file.bin\n".encode()
    assert fetch(listed, tmp_path / "right").read_bytes() == BODY
    server.files["/a/md5sum.txt"] = f"{MD5}  other_file.bin\n{'0' * 32}  ./file.bin\n".encode()
    with pytest.raises(TransferError, match=f"expected md5:{'0' * 32}, got md5:{MD5}"):
        fetch(listed, tmp_path / "wrong")
    server.files["/a/md5sum.txt"] = f"{MD5}  other_file.bin\n".encode()
    with pytest.raises(TransferError, match=r"md5sum.txt does not list it"):
        fetch(listed, tmp_path / "unlisted")
    del server.files["/a/md5sum.txt"]
    with pytest.raises(TransferError, match=r"file.bin cannot be verified: HTTP 404"):
        fetch(listed, tmp_path / "absent")
    assert [path.parent.parent.name for path in tmp_path.rglob("file.bin")] == ["right"]


def test_the_hash_of_google_cloud_storage_verifies(server: FileServer, tmp_path: Path) -> None:
    hashed = base64.b64encode(bytes.fromhex(MD5)).decode()
    server.otherwise = Answer(headers={"x-goog-hash": f"crc32c=AAAAAA==,md5={hashed}"})
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY
    server.answers = [Answer(body=b"?" + BODY[1:])]
    with pytest.raises(TransferError, match=f"expected md5:{MD5}"):
        fetch(source_on(server), tmp_path / "wrong")


def test_mirror_replaces_the_host(server: FileServer, tmp_path: Path) -> None:
    server.files["/mirrored/a/file.bin"] = BODY
    source = Source(address="https://host.invalid/a/file.bin", file="file.bin", checksum=SHA256)
    assert fetch(source, tmp_path, mirror=f"{server.address}/mirrored/").read_bytes() == BODY
    with pytest.raises(TransferError, match=r"must begin with http:// or https://"):
        fetch(source, tmp_path, mirror="mirror.org")


def test_full_disk_fails_before_the_transfer(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=len(BODY) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TransferError, match=r"The disk of .*sub is full"):
        fetch(source_on(server), tmp_path)
    assert not part(tmp_path).exists()


def test_disk_that_fills_up_keeps_the_part(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [Answer(stop_after=100_000)]
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", _fill_disk)
        with pytest.raises(TransferError, match=r"The disk of .*sub is full"):
            fetch(source_on(server), tmp_path)
    assert fetch(source_on(server), tmp_path).read_bytes() == BODY
    assert server.ranges()[1].startswith("bytes=")


def test_unwritable_folder_gives_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "sub").write_text("a file where the folder should be")
    with pytest.raises(TransferError, match=r"The folder .*sub cannot be used .*--folder"):
        fetch(source_on(server), tmp_path)


def test_interrupt_keeps_the_part(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [Answer(stop_after=100_000)]
    source = source_on(server, checksum=SHA256)
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", _interrupt)
        assert "Interrupted" in failure_of_command(source, tmp_path)
    kept = part(tmp_path).stat().st_size
    assert kept > 0
    assert fetch(source, tmp_path).read_bytes() == BODY
    assert server.ranges()[1] == f"bytes={kept}-"


def test_command_fails_with_a_message_and_status_1(server: FileServer, tmp_path: Path) -> None:
    server.files.clear()
    assert "HTTP 404" in failure_of_command(source_on(server), tmp_path)


def failure_of_command(source: Source, folder: Path) -> str:
    """Return the exit message of a command, which Python prints to stderr with status 1."""
    try:
        with as_command():
            fetch(source, folder)
    except SystemExit as stop:
        return str(stop.code) if isinstance(stop.code, str) else ""
    return ""


def test_sources_are_read(tmp_path: Path) -> None:
    table = tmp_path / "sources.yaml"
    table.write_text("one:\n  address: https://host/x\n  file: x\n  size: 3\n")
    assert read_sources(table) == {"one": Source(address="https://host/x", file="x", size=3)}


answers = st.builds(
    Answer,
    status=st.sampled_from([200, 200, 200, 503]),
    stop_after=st.none() | st.integers(0, 300),
    announced=st.none() | st.sampled_from(["100", "300", "500", ""]),
    ranges=st.booleans(),
    if_range=st.booleans(),
    etag=st.sampled_from(['"first"', '"second"', ""]),
    shift=st.sampled_from([0, 0, 1]),
)


@settings(max_examples=60, deadline=None)
@given(faults=st.lists(answers, max_size=5))
def test_any_faults_give_a_complete_file_or_none(faults: list[Answer]) -> None:
    body = bytes(range(250)) + b"x" * 50
    checksum = f"sha256:{hashlib.sha256(body).hexdigest()}"
    folders = tempfile.TemporaryDirectory()
    with pytest.MonkeyPatch.context() as patch, file_server() as server, folders as name:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr(core.storage.http, "PAUSE", 0)
        patch.setattr(core.storage.http, "CHUNK", 7)
        server.files["/a/file.bin"] = body
        server.answers = faults
        source, folder = source_on(server, checksum=checksum), Path(name)
        for _ in range(len(faults) + 1):
            try:
                fetch(source, folder)
            except TransferError:
                assert not final(folder).exists()
        assert final(folder).read_bytes() == body
        assert os.listdir(folder / "sub") == ["file.bin"]


def _interrupt(_: float) -> None:
    raise KeyboardInterrupt


def _fill_disk(_: float) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
