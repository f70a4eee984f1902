"""Time reading and splitting PDFs: nbutils against LlamaIndex's SimpleDirectoryReader, on the same files.

    python benchmarks/corpus_speed.py [FILE OR FOLDER]…

Both run in this process, one after the other, each file once, after both were imported and warmed up. Words are
counted as a multiset: agreement is 2 |A ∩ B| / (|A| + |B|). Characters leave out white space: where they agree and
the words don't, one of the two has put a space into a word or missed one between two.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from llama_index.core import SimpleDirectoryReader
from llama_index.core.node_parser import SentenceSplitter
from llama_index.readers.file import PDFReader  # noqa: F401  imported here so that its import is not timed

from nbutils.core import UserError
from nbutils.corpus.chunks import load_corpus, load_documents
from nbutils.corpus.files import find_files

ROOT = Path(__file__).parents[1]
DEFAULTS = [ROOT.parent / "shared" / "data" / "filings", ROOT / "data" / "sample"]


def walkthrough_load_corpus(file: Path) -> tuple[list, list, float, float]:
    """The walkthrough's way: documents, nodes, seconds to read, seconds to read and split."""
    start = time.perf_counter()
    documents = SimpleDirectoryReader(input_files=[file]).load_data()
    read = time.perf_counter()
    nodes = SentenceSplitter().get_nodes_from_documents(documents)
    return documents, nodes, read - start, time.perf_counter() - start


def our_load_corpus(file: Path) -> tuple[list, list, float, float]:
    """Ours: documents, nodes, seconds to read, seconds to read and split (which reads again)."""
    start = time.perf_counter()
    documents = load_documents(file)
    read = time.perf_counter()
    nodes = load_corpus(file)
    return documents, nodes, read - start, time.perf_counter() - read


def agreement(first: Counter, second: Counter) -> float:
    return 2 * (first & second).total() / (first.total() + second.total())


def compare(file: Path) -> dict:
    theirs, their_nodes, their_read, their_total = walkthrough_load_corpus(file)
    ours, our_nodes, our_read, our_total = our_load_corpus(file)
    words = [Counter(word for document in documents for word in document.text.split()) for documents in (theirs, ours)]
    letters = [Counter("".join("".join(d.text.split()) for d in documents)) for documents in (theirs, ours)]
    return {
        "file": file.name,
        "pages": len(ours),
        "read, SimpleDirectoryReader (s)": their_read,
        "read, nbutils (s)": our_read,
        "read ratio": their_read / our_read,
        "read + split, walkthrough (s)": their_total,
        "read + split, nbutils (s)": our_total,
        "total ratio": their_total / our_total,
        "words, SimpleDirectoryReader": words[0].total(),
        "words, nbutils": words[1].total(),
        "word agreement": agreement(*words),
        "character agreement": agreement(*letters),
        "chunks, walkthrough": len(their_nodes),
        "chunks, nbutils": len(our_nodes),
    }


def total(table: pd.DataFrame) -> pd.Series:
    row = table.sum(numeric_only=True)
    row["file"] = "all"
    row["read ratio"] = row["read, SimpleDirectoryReader (s)"] / row["read, nbutils (s)"]
    row["total ratio"] = row["read + split, walkthrough (s)"] / row["read + split, nbutils (s)"]
    for name in ("word agreement", "character agreement"):
        row[name] = (table[name] * table["words, nbutils"]).sum() / row["words, nbutils"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="PDFs, folders or globs; default: the shared filings, or data/sample")
    arguments = parser.parse_args()
    try:
        chosen = arguments.files or next(folder for folder in DEFAULTS if folder.is_dir())
        files = [file for file in find_files(chosen) if isinstance(file, Path) and file.suffix.lower() == ".pdf"]
    except UserError as error:
        sys.exit(str(error))
    if not files:
        sys.exit("None of the files is a PDF. Name at least one.")
    SentenceSplitter().split_text("A first sentence. A second one. " * 400)
    load_documents(files[0])
    rows = []
    for file in files:
        rows.append(compare(file))
        print(f"{file.name}: {rows[-1]['read ratio']:.1f} times as fast", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    table.loc[len(table)] = total(table)
    table = table.astype({name: int for name in table if name == "pages" or name.startswith(("words", "chunks"))})
    for name in ("word agreement", "character agreement"):
        table[name] = table[name].map("{:.4f}".format)
    print(table.set_index("file").T.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
