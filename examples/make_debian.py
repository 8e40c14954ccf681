#!/usr/bin/env python3
"""Cut the small sample in examples/debian/ from the data set debian-packages.

    examples/make_debian.py [SOURCE]        (default: ../shared/data/debian-packages beside the repository)

Takes the rows whose query has the smallest sha256: a fixed sample, the same on every machine and Python version.
The pool holds every positive of the sample and distractors from the same source, in an order that says nothing.
"""

import hashlib
import json
import sys
from pathlib import Path

N_TRAIN, N_TEST, N_POOL = 1000, 300, 2000

NOTE = """# examples/debian

One-line synopsis of a Debian package (query) -> the first paragraphs of its long description (passage).
A sample to try every command on real text; `make_debian.py` beside this folder cuts it from the full data set.

- From: package lists of Debian 12 (bookworm), main, amd64.
- Licence: package descriptions are part of each Debian source package and under its licence, which the Debian Free
  Software Guidelines require to be free; Debian spreads them as package metadata. Authors: the Debian maintainers.
- One positive per query. No query or passage of the test set is in the training set.

| file | lines | form |
|---|---|---|
| train.jsonl | {train} | `{{"query": str, "pos": [str]}}`, without negatives: `embertune mine` adds them |
| test.jsonl | {test} | `{{"query": str, "pos": [str]}}`, held out |
| candidate_context.jsonl | {pool} | `{{"context": [str]}}`: all {positives} positives and {distractors} distractors |
"""


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def sample(items, n, text):
    """The `n` items whose text has the smallest hash, in the order of the hashes."""
    return sorted(items, key=lambda item: hashlib.sha256(text(item).encode()).digest())[:n]


def main():
    repository = Path(__file__).resolve().parent.parent
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else repository.parent / "shared/data/debian-packages"
    if not source.is_dir():
        sys.exit(f"make_debian: no folder {source}; pass the folder of debian-packages")
    target = repository / "examples/debian"
    target.mkdir(exist_ok=True)

    train = sample(read(source / "train.jsonl"), N_TRAIN, lambda row: row["query"])
    test = sample(read(source / "test.jsonl"), N_TEST, lambda row: row["query"])
    positives = {text for row in train + test for text in row["pos"]}
    pool = [text for row in read(source / "candidate_context.jsonl") for text in row["context"]]
    used = {text for split in ("train", "test") for row in read(source / f"{split}.jsonl") for text in row["pos"]}
    distractors = sample([text for text in pool if text not in used], N_POOL - len(positives), str)
    pool = sample(positives | set(distractors), N_POOL, str)

    write(target / "train.jsonl", train)
    write(target / "test.jsonl", test)
    write(target / "candidate_context.jsonl", [{"context": [text]} for text in pool])
    note = NOTE.format(
        train=len(train), test=len(test), pool=len(pool), positives=len(positives), distractors=len(distractors)
    )
    (target / "SOURCE.md").write_text(note, encoding="utf-8")


if __name__ == "__main__":
    main()
