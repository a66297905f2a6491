"""The tables of results/*.json in Markdown: `python -m pipelines.tables [NAME ...]`.

Each published table comes from a file that a command wrote; the line above the table names the command. A
document shows a table between the lines `<!-- table: NAME -->` and `<!-- end of table -->`;
`python -m pipelines.tables --write` makes all of them anew.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.storage.atomic import replaced_atomically
from pipelines.common.table_columns import TABLES, Table

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.tables", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which tables, of: {', '.join(TABLES)}")
    parser.add_argument("--write", action="store_true", help="renew the tables in the documents instead")
    arguments = parser.parse_args(argv)
    if arguments.write:
        for document in documents():
            renew(document)
        return
    for name in arguments.names or TABLES:
        if name not in TABLES:
            sys.exit(f"{name} is no table; there are: {', '.join(TABLES)}.")
        path = results_file(name)
        if path.is_file():
            print(table(json.loads(path.read_text()), TABLES[name]), end="\n\n")
        else:
            print(f"{path} is not there: the command that writes it has not been run.", file=sys.stderr)


def documents() -> list[Path]:
    """Where tables may be shown: the Markdown files of the repository and of its rooms."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])


def renew(document: Path) -> None:
    """Write the tables of a document anew where they have changed."""
    before = document.read_text(encoding="utf-8")
    after = with_tables(before, document.name)
    if after != before:
        with replaced_atomically(document) as temporary:
            temporary.write_text(after, encoding="utf-8")
        print(f"{document} has new tables.")


def places(text: str) -> list[str]:
    """The names of the tables that a document shows."""
    return [name for _, name, _, _ in _PLACE.findall(text)]


def with_tables(text: str, name: str) -> str:
    """The text of document `name` with its tables as results/ has them; exits at one that is not there."""

    def place(found: re.Match[str]) -> str:
        begin, table_name, _, end = found.groups()
        if table_name not in TABLES:
            sys.exit(f"{name} shows the table {table_name}, which has no columns.")
        path = results_file(table_name)
        if not path.is_file():
            sys.exit(f"{name} shows the table {table_name}, but there is no {path}.")
        return f"{begin}{table(json.loads(path.read_text()), TABLES[table_name])}\n{end}"

    return _PLACE.sub(place, text)


def results_file(name: str) -> Path:
    """Where the rows of a table are."""
    return FOLDER / f"{TABLES[name].file or name}.json"


def table(results: dict[str, Any], layout: Table) -> str:
    """One Markdown table, under a line that says where its numbers come from."""
    lines = [_source(results), ""]
    lines.append("| " + " | ".join(name for name, _ in layout.columns) + " |")
    lines.append("|" + "---|" * len(layout.columns))
    for row in layout.arranged(results[layout.rows]):
        lines.append("| " + " | ".join(cell(row) for _, cell in layout.columns) + " |")
    return "\n".join(lines)


def _source(results: dict[str, Any]) -> str:
    """Where the numbers come from: the command and all that it depended on, or whose they are."""
    if "copied_from" in results:
        return f"Copied from {results['copied_from']}."
    commit = "; ".join(one[:10] for one in (results["commit"] or "unknown").split("; "))
    source = f"`{results['command']}`: {results['hardware']}, {results['date']}, commit {commit}"
    return f"{source}, seed {results['seed']}."


if __name__ == "__main__":
    main()
