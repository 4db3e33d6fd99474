"""Definitions of WordNet 3.0 as unlabelled texts: `python -m hysac_export.data.glosses FOLDER` writes them again.

FOLDER holds WordNet's data files, as Debian's package wordnet-base has them in /usr/share/wordnet. A text is a word and
its definition, without examples; a part is drawn of those that are neither very short nor long.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from random import Random

import click

PARTS = ("noun", "verb", "adj", "adv")
COUNT = 20_000
WORDS = (4, 24)
"""Words of a text, at least and at most."""
PACKED = Path(__file__).with_name("glosses.txt.gz")


def glosses(folder: Path) -> list[str]:
    """Read every text from WordNet's data files, in their order, each once."""
    found: dict[str, None] = {}
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="ascii").splitlines():
            fields, bar, gloss = line.partition(" | ")
            if not bar or line.startswith("  "):  # the licence, which each file begins with
                continue
            word = fields.split()[4].partition("(")[0].replace("_", " ")
            text = re.sub(r'[;:,]?\s*"[^"]*"?|\([^)]*\)', " ", gloss).strip(" ;")
            text = " ".join(f"{word}: {text}".split())
            if WORDS[0] <= len(text.split()) <= WORDS[1] and text.isascii():
                found[text] = None
    return list(found)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write the texts that come with the package, from the data files of WordNet in FOLDER."""
    chosen = sorted(Random(0).sample(glosses(folder), COUNT))
    PACKED.write_bytes(gzip.compress("\n".join(chosen).encode(), mtime=0))
    click.echo(f"{PACKED}: {COUNT} texts, {PACKED.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
