"""Makes the files of this folder: the same four triplets in every form. Needs pandas and pyarrow."""

import gzip
import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet

HERE = Path(__file__).parent
TRIPLETS = [
    ("split a pdf", "pdfsam, which splits", "a viewer"),
    ("join, or split", '"pdftk", a tool\nthat splits; and joins', "a\tprinter"),
    ("caf\u00e9 \u6570\u636e", "na\u00efve, 'quoted'", "-"),
    ("one more", "last", "[not a list]"),
]
rows = [dict(zip(("anchor", "positive", "negative"), triplet)) for triplet in TRIPLETS]
lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
frame = pandas.DataFrame(rows)

(HERE / "triplets.jsonl").write_text("".join(lines))
(HERE / "triplets.json").write_text(json.dumps(rows, indent=1))
frame.to_csv(HERE / "triplets.csv", index=False)
frame.to_csv(HERE / "triplets.semicolon.csv", index=False, sep=";", lineterminator="\r\n")
frame.to_csv(HERE / "triplets.index.tsv", sep="\t")
csv = (HERE / "triplets.csv").read_bytes()
(HERE / "triplets.csv.gz").write_bytes(gzip.compress(csv[:40], mtime=0) + gzip.compress(csv[40:], mtime=0))
(HERE / "triplets.csv.zst").write_bytes(
    b"".join(pyarrow.compress(part, codec="zstd", asbytes=True) for part in (csv[:40], csv[40:]))
)

folder = HERE / "triplets"
(folder / "data").mkdir(parents=True, exist_ok=True)
(folder / "data" / "train-00000-of-00002.jsonl").write_text("".join(lines[:1]))
(folder / "data" / "train-00001-of-00002.jsonl").write_text("".join(lines[1:]))
(folder / "data" / "test-00000-of-00001.jsonl").write_text(lines[0])
(folder / "dataset_infos.json").write_text("{}\n")

pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), HERE / "triplets.parquet", compression="zstd")
lists = pyarrow.Table.from_pylist([{"query": "q", "pos": ["p"], "neg": ["a", "b"]}])
pyarrow.parquet.write_table(lists, HERE / "lists.parquet", compression="snappy")
