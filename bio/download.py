"""Download genomes and their intervals: `python -m bio.download hg38 --chromosome chr20`.

`bio/sources.yaml` lists the sources. A set of species (`bio/species/NAME.yaml`) selects the sources of
its species.
"""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from core.storage.download import Source, TransferError, add_arguments, as_command, fetch, read_sources

TABLE = Path(__file__).with_name("sources.yaml")
SPECIES = Path(__file__).with_name("species")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch every named source; exit with status 1 and one sentence if a download fails."""
    options = _parser().parse_args(arguments)
    with as_command():
        table = read_sources(TABLE)
        if options.list:
            print(list_sources(table))
            return
        for name in select_sources(table, options.name, options.chromosome):
            fetch(table[name], options.folder, options.mirror)


def select_sources(table: dict[str, Source], names: Sequence[str], chromosomes: Sequence[str]) -> list[str]:
    """Return the sources of the names and chromosomes of a command line, each once, in their order.

    Raises TransferError without names, and for a name or chromosome that the table does not have.
    """
    if not names:
        raise TransferError("Name a source, for example hg38. --list shows all sources.")
    sources = [source for name in names for source in _expand(table, name, chromosomes)]
    return list(dict.fromkeys(sources))


def list_sources(table: dict[str, Source]) -> str:
    """Return the table as text: name, size (bytes), verification, address; then the sets of species."""
    files = [
        f"{name:<15} {source.size or '?':>13} {_verification(source):<9} {source.address}"
        for name, source in table.items()
    ]
    return "\n".join(files + [f"{name:<15} {', '.join(sources)}" for name, sources in _sets().items()])


def _expand(table: dict[str, Source], name: str, chromosomes: Sequence[str]) -> list[str]:
    if chromosomes:
        return [_chromosome(table, name, chromosome) for chromosome in chromosomes]
    return [_check_name(table, source) for source in _sets().get(name, [name])]


def _sets() -> dict[str, list[str]]:
    """Return the sources of every set of species that can be downloaded."""
    sets = {path.stem: OmegaConf.load(path).species for path in sorted(SPECIES.glob("*.yaml"))}
    return {
        name: [entry.source for entry in species.values()]
        for name, species in sets.items()
        if all("source" in entry for entry in species.values())
    }


def _chromosome(table: dict[str, Source], name: str, chromosome: str) -> str:
    """Return the source of one chromosome, written with or without "chr"."""
    single = [source.removeprefix(f"{name}/") for source in table if source.startswith(f"{name}/")]
    if not single:
        raise TransferError(f"{name} is one file, without single chromosomes. Remove --chromosome.")
    full_name = "chr" + chromosome.removeprefix("chr")
    if full_name not in single:
        raise TransferError(f"{name} has no chromosome {chromosome!r}; it has {', '.join(single)}.")
    return f"{name}/{full_name}"


def _check_name(table: dict[str, Source], name: str) -> str:
    """Return the name; raise TransferError, with similar names, if the table does not have it."""
    if name in table:
        return name
    near = difflib.get_close_matches(name, [*table, *_sets()])
    raise TransferError(
        f"There is no source {name!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "--list shows all sources."
    )


def _verification(source: Source) -> str:
    if source.checksum:
        return source.checksum.partition(":")[0]
    return "md5 list" if source.checksum_list else "server"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bio.download", description=__doc__)
    parser.add_argument("name", nargs="*", help="source (hg38) or set of species (great_apes)")
    parser.add_argument(
        "--chromosome", nargs="+", default=[], metavar="chrN", help="single chromosomes, one file each"
    )
    parser.add_argument("--list", action="store_true", help="list all sources and exit")
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
