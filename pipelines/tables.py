"""Print the tables of results/*.json in Markdown: `python -m pipelines.tables [NAME ...]`.

Each published table comes from a file written by a command; the line above the table names the command. A
document holds a table between the lines `<!-- table: NAME -->` and `<!-- end of table -->`.
`python -m pipelines.tables --write` rewrites all of them.
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
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.tables", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"names of the tables: {', '.join(TABLES)}")
    parser.add_argument("--write", action="store_true", help="rewrite the tables in the documents")
    arguments = parser.parse_args(argv)
    if arguments.write:
        for document in documents():
            rewrite_tables(document)
        return
    for name in arguments.names or TABLES:
        if name not in TABLES:
            sys.exit(f"There is no table {name}. Tables are {', '.join(TABLES)}.")
        path = results_file(name)
        if path.is_file():
            print(markdown_table(json.loads(path.read_text()), TABLES[name]), end="\n\n")
        else:
            print(f"There is no {path}. Run the command that writes it.", file=sys.stderr)


def documents() -> list[Path]:
    """Return the documents that may hold tables: Markdown files of the root and of its folders."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])


def rewrite_tables(document: Path) -> None:
    """Rewrite the tables of a document that have changed."""
    before = document.read_text(encoding="utf-8")
    after = with_tables(before, document.name)
    if after != before:
        with replaced_atomically(document) as temporary:
            temporary.write_text(after, encoding="utf-8")
        print(f"Rewrote the tables of {document}.")


def table_names(text: str) -> list[str]:
    """Return the names of the tables in a document."""
    return [name for _, name, _, _ in _BLOCK.findall(text)]


def with_tables(text: str, name: str) -> str:
    """Return the text of document `name` with its tables from results/; exits if one is missing."""

    def replacement(match: re.Match[str]) -> str:
        begin, table_name, _, end = match.groups()
        if table_name not in TABLES:
            sys.exit(f"{name} holds the table {table_name}, but pipelines.common.table_columns does not.")
        path = results_file(table_name)
        if not path.is_file():
            sys.exit(f"{name} holds the table {table_name}, but there is no {path}.")
        return f"{begin}{markdown_table(json.loads(path.read_text()), TABLES[table_name])}\n{end}"

    return _BLOCK.sub(replacement, text)


def results_file(name: str) -> Path:
    """Return the file with the rows of a table."""
    return FOLDER / f"{TABLES[name].file or name}.json"


def markdown_table(results: dict[str, Any], layout: Table) -> str:
    """Return a Markdown table below a line with the source of its numbers.

    Not from tabulate: it pads cells to the column width, so one new row would change every line.
    """
    lines = [_source(results), ""]
    lines.append("| " + " | ".join(name for name, _ in layout.columns) + " |")
    lines.append("|" + "---|" * len(layout.columns))
    for row in layout.arrange(results[layout.rows]):
        lines.append("| " + " | ".join(cell(row) for _, cell in layout.columns) + " |")
    return "\n".join(lines)


def _source(results: dict[str, Any]) -> str:
    """Return the command behind the numbers with its conditions, or their publication."""
    if "copied_from" in results:
        return f"Copied from {results['copied_from']}."
    commits = "; ".join(commit[:10] for commit in (results["commit"] or "unknown").split("; "))
    source = f"`{results['command']}`: {results['hardware']}, {results['date']}, commit {commits}"
    return f"{source}, seed {results['seed']}."


if __name__ == "__main__":
    main()
