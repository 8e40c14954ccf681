#!/usr/bin/env python3
"""Plant false negatives into a pool and count how many of them a mining run takes.

    plant.py make DATA OUT [--rows 1000] [--pool 3000] [--seed 7]
    plant.py count OUT MINED.jsonl [MINED.jsonl ...]
    plant.py held_out DATA OUT [--queries 500] [--pool 2000] [--seed 7]

`make` reads DATA/train.jsonl {"query","pos"} and DATA/corpus.jsonl {"id","text"} and writes OUT/train.jsonl, OUT/pool.jsonl (the rows'
positives, other passages of the corpus, the planted ones) and OUT/planted.json. For every second row one copy of its first positive
is planted, changed in one of five ways in turn:

  case      upper case
  marks     other punctuation and line breaks: `.` becomes ` -`, `,` goes, ...
  order     the sentences the other way round (or the halves, where there is one sentence)
  dropped   without its last sentence (rows with one sentence get `case`)
  synonyms  a few frequent words exchanged for others, so that neither text nor words are the same

A planted text answers the query as the positive does: mining it as a negative is a mistake. `count` prints, for each file with `neg`, the
share of planted rows whose own plant was mined, for each kind. `held_out` writes OUT/test.jsonl, some queries of DATA/test.jsonl, and
OUT/test_pool.jsonl, their positives and other passages of the corpus, without plants. Needs only Python's standard library."""
import argparse
import json
import random
import re
from pathlib import Path

SWAPS = {"provides": "offers", "package": "bundle", "library": "collection of functions", "program": "application", "tool": "utility",
         "contains": "includes", "files": "documents", "simple": "plain", "fast": "quick", "support": "handling", "using": "by means of",
         "used": "employed", "allows": "lets", "written": "made", "based": "founded", "command": "shell", "create": "build",
         "data": "information", "also": "as well", "many": "numerous", "you": "one", "can": "may", "this": "the"}


def sentences(text):
    return [s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s]


def change(kind, text):
    parts = sentences(text)
    if kind == "dropped" and len(parts) > 1:
        return kind, " ".join(parts[:-1])
    if kind == "order":
        words = text.split()
        half = len(words) // 2
        return kind, " ".join(parts[::-1]) if len(parts) > 1 else " ".join(words[half:] + words[:half])
    if kind == "marks":
        return kind, re.sub(r"\s+", "\n", re.sub(r"[,;:()\"]", "", text.replace(".", " -")), count=3)
    if kind == "synonyms":
        return kind, re.sub(r"[A-Za-z]+", lambda m: SWAPS.get(m[0].lower(), m[0]), text)
    return "case", text.upper()


def write(path, items):
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")


def make(args):
    rng = random.Random(args.seed)
    data, out = Path(args.data), Path(args.out)
    rows = [json.loads(line) for line in open(data / "train.jsonl", encoding="utf-8")]
    rng.shuffle(rows)
    rows = rows[: args.rows]
    pool = list(dict.fromkeys(text for row in rows for text in row["pos"]))
    known = set(pool)
    rest = [json.loads(line)["text"] for line in open(data / "corpus.jsonl", encoding="utf-8")]
    rest = [text for text in dict.fromkeys(rest) if text not in known]
    rng.shuffle(rest)
    pool += rest[: max(0, args.pool - len(pool))]
    planted = {}
    for i, row in enumerate(rows[::2]):
        kind, text = change(["case", "marks", "order", "dropped", "synonyms"][i % 5], row["pos"][0])
        if text not in known:
            planted[row["query"]] = [kind, text]
            known.add(text)
            pool.append(text)
    rng.shuffle(pool)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "train.jsonl", [{"query": row["query"], "pos": row["pos"]} for row in rows])
    write(out / "queries.jsonl", [{"query": row["query"]} for row in rows])
    write(out / "pool.jsonl", [{"text": text} for text in pool])
    (out / "planted.json").write_text(json.dumps(planted, ensure_ascii=False), encoding="utf-8")
    print(f"{len(rows)} rows, {len(pool)} passages, {len(planted)} of them planted")


def count(args):
    planted = json.loads((Path(args.out) / "planted.json").read_text(encoding="utf-8"))
    kinds = ["case", "marks", "order", "dropped", "synonyms"]
    print(f"{'':28}" + "".join(f"{kind:>10}" for kind in kinds + ["all", "neg/row"]))
    for path in args.mined:
        total, hit, n_neg, n_rows = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0), 0, 0
        for row in map(json.loads, open(path, encoding="utf-8")):
            n_rows, n_neg = n_rows + 1, n_neg + len(row["neg"])
            if row["query"] in planted:
                kind, text = planted[row["query"]]
                total[kind] += 1
                hit[kind] += text in row["neg"]
        shares = [100 * hit[k] / max(total[k], 1) for k in kinds] + [100 * sum(hit.values()) / max(sum(total.values()), 1)]
        print(f"{Path(path).stem:28}" + "".join(f"{share:9.1f}%" for share in shares) + f"{n_neg / n_rows:10.1f}")


def held_out(args):
    rng = random.Random(args.seed)
    data, out = Path(args.data), Path(args.out)
    rows = [json.loads(line) for line in open(data / "test.jsonl", encoding="utf-8")]
    rows = rng.sample(rows, min(args.queries, len(rows)))
    pool = dict.fromkeys(text for row in rows for text in row["pos"])
    rest = [text for text in (json.loads(line)["text"] for line in open(data / "corpus.jsonl", encoding="utf-8")) if text not in pool]
    rng.shuffle(rest)
    pool = [*pool, *rest[: max(0, args.pool - len(pool))]]
    write(out / "test.jsonl", [{"query": row["query"], "pos": row["pos"]} for row in rows])
    write(out / "test_pool.jsonl", [{"text": text} for text in pool])
    print(f"{len(rows)} held-out queries, {len(pool)} passages")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
maker = commands.add_parser("make")
maker.add_argument("data")
maker.add_argument("out")
for flag, default in (("rows", 1000), ("pool", 3000), ("seed", 7)):
    maker.add_argument(f"--{flag}", type=int, default=default)
maker.set_defaults(run=make)
counter = commands.add_parser("count")
counter.add_argument("out")
counter.add_argument("mined", nargs="+")
counter.set_defaults(run=count)
holder = commands.add_parser("held_out")
holder.add_argument("data")
holder.add_argument("out")
for flag, default in (("queries", 500), ("pool", 2000), ("seed", 7)):
    holder.add_argument(f"--{flag}", type=int, default=default)
holder.set_defaults(run=held_out)
args = parser.parse_args()
args.run(args)
