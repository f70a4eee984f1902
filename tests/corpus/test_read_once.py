from pathlib import Path

from short_chain import documents

from nbutils.corpus.chunks import load_corpus


def test_the_same_file_is_read_and_split_once(tmp_path):
    cache, text = (
        tmp_path / "cache",
        "\n\n".join(f"The harbour report says that crane {n} was painted." for n in range(30)),
    )

    def load(folder: Path, size: int = 64):
        before = {path: path.stat().st_mtime_ns for path in cache.glob("*.json")}
        nodes = load_corpus(folder / "a.txt", chunk_size=size, cache=cache)
        return nodes, {path for path in cache.glob("*.json") if before.get(path) != path.stat().st_mtime_ns}

    first, made = load(documents(tmp_path / "d", a=text))
    assert made
    again, made = load(documents(tmp_path / "copy", a=text))
    assert made == set()
    assert [(node.id_, node.text) for node in again] == [(node.id_, node.text) for node in first]
    assert len(load(tmp_path / "d", 128)[0]) < len(first)
    changed, made = load(documents(tmp_path / "d", a=text.replace("painted", "sold")))
    assert made and "sold" in changed[0].text
