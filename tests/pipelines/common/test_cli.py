"""Every script returns a status and, on bad input, prints exactly one message."""

from collections.abc import Sequence

import pytest
import torch

from pipelines.common.cli import Command, command


def raises(error: BaseException) -> Command:
    def main(arguments: Sequence[str]) -> None:
        raise error

    return command(main)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bases.fa: no record."), "error: bases.fa: no record.\n"),
        (FileNotFoundError("There is no bases.fa."), "error: There is no bases.fa.\n"),
        (OSError(28, "No space left on device", "runs/x"), "error: No space left on device: runs/x\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
    ],
)
def test_bad_input_is_one_message_and_status_1(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raises(error)([]) == 1
    assert capsys.readouterr() == ("", message)


def test_a_gpu_that_is_too_small_is_one_message_with_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """The text comes from torch 2.11."""
    text = (
        "CUDA out of memory. Tried to allocate 40.00 GiB. GPU 0 has a total capacity of 139.72 GiB of which "
        "1.2 GiB is free. Process 7 has 3 GiB memory in use."
    )
    assert raises(torch.cuda.OutOfMemoryError(text))([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: The GPU's memory is too small: CUDA out of memory. Tried to allocate 40")
    assert error.count("\n") == 1
    for key in ("train.micro_tokens", "model.recompute=block", "train.backpropagation_length"):
        assert key in error


def test_interrupt_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert raises(KeyboardInterrupt())([]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        raises(ZeroDivisionError())([])


def test_success_is_status_0_and_gets_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []
    main = command(seen.append)
    monkeypatch.setattr("sys.argv", ["script", "b=2"])
    assert main(["a=1"]) == 0
    assert main() == 0
    assert seen == [["a=1"], ["b=2"]]


def test_messages_of_several_processes_name_their_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    raises(ValueError("no."))([])
    assert capsys.readouterr().err == "[rank 1] error: no.\n"
