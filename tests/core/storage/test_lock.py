"""One place has one writing process; a killed one leaves no lock."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from core.storage.lock import InUseError, Lock, output_lock

processes = multiprocessing.get_context("spawn")


def hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:  # type: ignore[name-defined]
    with output_lock(path):
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path: Path) -> "multiprocessing.context.SpawnProcess":  # type: ignore[return]
    held = processes.Event()
    process = processes.Process(target=hold, args=(tmp_path / "g.fa", held))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_second_writer_is_rejected_until_the_first_is_dead(
    tmp_path: Path, holder: "multiprocessing.context.SpawnProcess"
) -> None:
    message = rf"g.fa is being written by process {holder.pid} on \S+; wait or name another output\.$"
    with pytest.raises(InUseError, match=message):
        output_lock(tmp_path / "g.fa").__enter__()
    (tmp_path / "link").symlink_to("g.fa")
    with pytest.raises(InUseError, match="link is being written"):
        output_lock(tmp_path / "link").__enter__()
    with output_lock(tmp_path / "other.fa"):
        pass
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with output_lock(tmp_path / "g.fa"):
        assert (tmp_path / ".g.fa.lock").read_text().startswith(f"{os.getpid()} on ")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_locks_of_one_process_are_one_lock(tmp_path: Path) -> None:
    first, second = (Lock(tmp_path / ".lock", tmp_path, "stop it") for _ in range(2))
    first.acquire()
    second.acquire()
    first.release()
    first.release()
    assert (tmp_path / ".lock").exists()
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".g.fa.lock").symlink_to("victim")
    with pytest.raises(OSError, match=r"\.g\.fa\.lock"):
        output_lock(tmp_path / "g.fa").__enter__()
    assert not (tmp_path / "victim").exists()


def test_devices_are_not_locked() -> None:
    with output_lock(Path("/dev/null")):
        assert not Path("/dev/.null.lock").exists()
