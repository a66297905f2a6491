"""Speed of the kernels on this machine: `python -m kernels.benchmarks`.

On a GPU this measures scan, convolution and norm, and the official kernels if they are installed. It
prints a table, writes JSON lines and a picture to the output folder, and results/*.json with --publish.
Without a GPU it measures the CPU scan and mambapy's. Errors against fp64 are measured first; a wrong
result gets no ratio.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from kernels.benchmarks import conv, norm, scan, scan_cpu
from kernels.provenance import write_results

_PASSES = ("forward", "forward_backward")
COMMAND = "python -m kernels.benchmarks --publish"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.benchmarks", description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/kernels"),
        help="output folder of the JSON lines and the picture",
    )
    parser.add_argument("--publish", action="store_true", help="also write results/{scan,conv,norm}.json")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        scan_cpu.main([])
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = _scan_rows(arguments.output / "scan.jsonl")
    sweep = [scan.row(shape) for shape in scan.SWEEP]
    _append(arguments.output / "scan_sweep.jsonl", sweep)
    plot(sweep, arguments.output / "scan.png")
    tables = {"scan": rows}
    for name, operator in (("conv", conv), ("norm", norm)):
        tables[name] = operator.rows("cuda")
        _append(arguments.output / f"{name}.jsonl", tables[name])
        for row in tables[name]:
            print(_line(row))
    if arguments.publish:
        for name, rows in tables.items():
            write_results(Path(f"results/{name}.json"), COMMAND, torch.device("cuda"), 0, rows)
    print(f"Wrote JSON lines and the picture to {arguments.output}.")


def _scan_rows(output: Path) -> list[dict[str, Any]]:
    print("selective_scan, bf16; times in ms, forward / forward + backward; ratio: official / ours (target)")
    rows = []
    for shape, target in scan.TARGETS.items():
        rows.append(scan.row(shape, target))
        print(_line(rows[-1]), flush=True)
        torch.cuda.empty_cache()
    _append(output, rows)
    return rows


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _line(row: dict[str, Any]) -> str:
    case = ", ".join(
        f"{key} {row[key]}" for key in ("operator", "batch", "channels", "length", "state") if key in row
    )
    text = f"{case}{', complex' if row.get('complex') else ''}: "
    text += f"ours {row['ours_forward_ms']:.3f} / {row['ours_forward_backward_ms']:.3f}"
    if row["reason"]:
        return f"{text}; no ratio: {row['reason']}"
    text += f", official {row['official_forward_ms']:.3f} / {row['official_forward_backward_ms']:.3f}; ratio "
    text += " / ".join(_ratio(row[f"{key}_ratio"], row.get(f"target_{key}")) for key in _PASSES)
    text += f"; peak MiB {row['ours_peak_mib']:.0f}, official {row['official_peak_mib']:.0f}"
    if "floor_forward_ms" in row:
        distance = row["ours_forward_backward_ms"] / row["floor_forward_backward_ms"]
        text += f"; {distance:.1f} times the hardware limit"
    return f"{text}; worst error ratio {row['error_ratio']:.2f}"


def _ratio(ratio: float, target: float | None) -> str:
    if target is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} (target {target}{'' if ratio >= target else ', missed'})"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot forward + backward time against length, log-log, with the hardware limit."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    lengths = [row["length"] for row in rows]
    for key, label in (
        ("official_forward_backward_ms", "official"),
        ("ours_forward_backward_ms", "Helixwave"),
        ("floor_forward_backward_ms", "hardware limit"),
    ):
        if all(row[key] is not None for row in rows):
            axes.loglog(lengths, [row[key] for row in rows], "--" if "floor" in label else "o-", label=label)
    axes.set(
        xlabel="length",
        ylabel="forward + backward, ms",
        title=f"selective scan, {rows[0]['channels']} channels",
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
