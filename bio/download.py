"""Download genomes and their intervals: `python -m bio.download hg38 --chromosome chr20`.

What can be had is the table `bio/sources.yaml`; a set of species (`bio/species/NAME.yaml`) stands for the
sources that its species name.
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
    """Fetch every source that is named; exit with status 1 and one sentence when one cannot be had whole."""
    options = _parser().parse_args(arguments)
    with as_command():
        table = read_sources(TABLE)
        if options.list:
            print(listing(table))
            return
        for name in choose(table, options.name, options.chromosome):
            fetch(table[name], options.folder, options.mirror)


def choose(table: dict[str, Source], names: Sequence[str], chromosomes: Sequence[str]) -> list[str]:
    """The sources that the names and chromosomes of a command line ask for, each once, in that order.

    Raises TransferError for nothing asked for, and for a name or chromosome that the table does not have.
    """
    if not names:
        raise TransferError("Name what to download, for example hg38; --list shows what there is.")
    wanted = [source for name in names for source in _expand(table, name, chromosomes)]
    return list(dict.fromkeys(wanted))


def listing(table: dict[str, Source]) -> str:
    """The table as text: name, size in bytes, by what it is verified, address; then the sets of species."""
    files = [
        f"{name:<15} {source.size or '?':>13} {_verified_by(source):<9} {source.address}"
        for name, source in table.items()
    ]
    return "\n".join(files + [f"{name:<15} {', '.join(sources)}" for name, sources in _sets().items()])


def _expand(table: dict[str, Source], name: str, chromosomes: Sequence[str]) -> list[str]:
    if chromosomes:
        return [_chromosome(table, name, chromosome) for chromosome in chromosomes]
    return [_known(table, source) for source in _sets().get(name, [name])]


def _sets() -> dict[str, list[str]]:
    """The sources of every set of species whose sequences can be downloaded."""
    sets = {path.stem: OmegaConf.load(path).species for path in sorted(SPECIES.glob("*.yaml"))}
    return {
        name: [entry.source for entry in species.values()]
        for name, species in sets.items()
        if all("source" in entry for entry in species.values())
    }


def _chromosome(table: dict[str, Source], name: str, chromosome: str) -> str:
    """The source of one chromosome, named with or without "chr"."""
    single = [source.removeprefix(f"{name}/") for source in table if source.startswith(f"{name}/")]
    if not single:
        raise TransferError(f"{name} is one file, without single chromosomes: leave out --chromosome.")
    wanted = "chr" + chromosome.removeprefix("chr")
    if wanted not in single:
        raise TransferError(f"{name} has no chromosome {chromosome!r}: it has {', '.join(single)}.")
    return f"{name}/{wanted}"


def _known(table: dict[str, Source], name: str) -> str:
    if name in table:
        return name
    near = difflib.get_close_matches(name, [*table, *_sets()])
    raise TransferError(
        f"There is no source {name!r}: "
        + (f"did you mean {' or '.join(near)}? " if near else "")
        + "--list shows what there is."
    )


def _verified_by(source: Source) -> str:
    if source.checksum:
        return source.checksum.partition(":")[0]
    return "md5 list" if source.checksum_list else "server"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bio.download", description=__doc__)
    parser.add_argument("name", nargs="*", help="a source, for example hg38, or a set of species: great_apes")
    parser.add_argument(
        "--chromosome", nargs="+", default=[], metavar="chrN", help="only these, each as a file of its own"
    )
    parser.add_argument("--list", action="store_true", help="show every source and end")
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
