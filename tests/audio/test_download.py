"""Audio download command: archives are unpacked completely inside their own folder, or not at all."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio import download
from core.storage.download import TransferError, read_sources
from tests.core.storage.file_server import FileServer, file_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with file_server() as server:
        yield server


def write_archive(path: Path, *members: tarfile.TarInfo) -> Path:
    """Return a tar.gz with two clips and the given members."""
    clips = [tarfile.TarInfo("./zero/a.wav"), tarfile.TarInfo("./one/b.wav")]
    with tarfile.open(path, "w:gz") as archive:
        for member in [*clips, *members]:
            content = member.name.encode() if member.isfile() else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "clips.tar.gz", member("./two", tarfile.DIRTYPE))
    download.unpack(archive, tmp_path / "clips")
    assert files_in(tmp_path / "clips") == ["one/b.wav", "zero/a.wav"]
    assert (tmp_path / "clips" / "zero" / "a.wav").read_text() == "./zero/a.wav"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "clips.tar.gz"]


@pytest.mark.parametrize(
    "bad",
    [
        member("../escaped.wav"),
        member("./zero/../../escaped.wav"),
        member("/escaped.wav"),
        member("zero/link", tarfile.SYMTYPE, "/etc"),
        member("zero/link", tarfile.SYMTYPE, "a.wav"),
        member("zero/link", tarfile.LNKTYPE, "zero/a.wav"),
        member("zero/pipe", tarfile.FIFOTYPE),
        member("zero/device", tarfile.CHRTYPE),
    ],
    ids=lambda bad: f"{bad.name}-{bad.type.decode()}",
)
def test_a_member_that_may_not_be_leaves_nothing(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = write_archive(tmp_path / "clips.tar.gz", bad)
    with pytest.raises(TransferError, match=r"clips\.tar\.gz holds '"):
        download.unpack(archive, tmp_path / "below" / "clips")
    assert files_in(tmp_path) == ["clips.tar.gz"]
    assert not Path("/escaped.wav").exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no archive"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, damage: str) -> None:
    archive = write_archive(tmp_path / "clips.tar.gz")
    whole = archive.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    archive.write_bytes({"truncated": whole[:middle], "flipped": flipped, "no archive": b"<html>"}[damage])
    with pytest.raises(TransferError, match=r"clips\.tar\.gz is damaged"):
        download.unpack(archive, tmp_path / "clips")
    assert files_in(tmp_path) == ["clips.tar.gz"]


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "clips.tar.gz")
    (tmp_path / "clips.part").mkdir()
    (tmp_path / "clips.part" / "half.wav").write_text("half")
    download.unpack(archive, tmp_path / "clips")
    assert files_in(tmp_path / "clips") == ["one/b.wav", "zero/a.wav"]


def test_sc09_is_fetched_and_unpacked_once(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = write_archive(tmp_path / "served.tar.gz").read_bytes()
    server.files["/digits/speech_commands_v0.02.tar.gz"] = body
    table = tmp_path / "sources.yaml"
    table.write_text(
        "sc09/0.02:\n  address: https://host.invalid/digits/speech_commands_v0.02.tar.gz\n"
        f"  file: speech_commands_v0.02.tar.gz\n  checksum: sha256:{hashlib.sha256(body).hexdigest()}\n"
    )
    monkeypatch.setattr(download, "TABLE", table)
    arguments = ["sc09", "--folder", str(tmp_path / "data"), "--mirror", server.address]
    download.main(arguments)
    unpacked = tmp_path / "data" / "speech_commands_v0.02"
    assert files_in(unpacked) == ["one/b.wav", "zero/a.wav"]
    server.requests.clear()
    download.main(arguments)
    assert server.requests == []


def test_an_archive_that_is_not_there_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        download.main(["sc09", "--folder", str(tmp_path), "--mirror", server.address])
    assert isinstance(stop.value.code, str)
    assert re.search(r"HTTP 404 .*speech_commands_v0\.02\.tar\.gz", stop.value.code)
    assert files_in(tmp_path) == []


def test_both_versions_are_known_with_checksum_and_size() -> None:
    table = read_sources(download.TABLE)
    assert list(table) == ["sc09/0.01", "sc09/0.02"]
    assert all(source.size and source.checksum for source in table.values())
    assert all(name.partition("/")[2] in source.address for name, source in table.items())
