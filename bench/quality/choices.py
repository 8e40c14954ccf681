#!/usr/bin/env python3
"""What of a model to train, with numbers: the table of docs/guide/choosing.md.

    choices.py DATA MODEL OUT [--embertune target/release/embertune] [--only debian] [--cell LoRA] [--table]

DATA holds the retrieval folders debian-packages, scifact and banking77: corpus.jsonl {"id","text"}, train.jsonl and
test.jsonl {"query","pos":[text]}. MODEL is the folder of all-MiniLM-L6-v2. For each set this writes into OUT/<set>
seeded samples of rows, test queries and pool (the positives of those queries, and other documents), trains each cell
of the table on the same rows, embeds test queries and pool, and scores the vectors at their full width and cut to 64.
cells.jsonl gets a line for each cell: CPU seconds and peak memory of `embertune train` as the system counts them,
metrics, and the standard error of the difference to the base model over the queries. What is there already is kept,
so that a stopped run can be taken up again. `--table` prints the cells as Markdown and runs nothing.
"""

import argparse
import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np

CUT = 64
SEED = 0

# Sizes: rows and test queries (None for all), documents of the pool, tokens of passages in the training and of all texts
# in the evaluation. They are what a cell can be trained with in about a minute. `large` is the rows and the tokens of
# passages where batches of 32 and of 512 are compared: all rows of SciFact, so that an epoch has two batches of 512.
SETS = {
    "debian": dict(folder="debian-packages", rows=480, queries=500, pool=800, passage=48, texts=64, epochs=2, large=(1024, 32)),
    "scifact": dict(folder="scifact", rows=320, queries=None, pool=600, passage=80, texts=96, epochs=2, large=(807, 80)),
    "banking77": dict(folder="banking77", rows=1000, queries=None, pool=770, passage=64, texts=64, epochs=2, large=(2048, 64)),
}
# Labels as positives: other passages of the same label are no negatives.
FLAGS_OF_SET = {"banking77": ["--mask_margin", "0"]}

PARTS = {
    "all weights": ["--learning_rate", "3e-5"],
    "LoRA": ["--learning_rate", "3e-4", "--lora_r", "16"],
    "upper half": ["--learning_rate", "3e-5", "--freeze_layers", "3"],
}
MATRYOSHKA = ["--matryoshka_dims", "384", "192", "96", "48"]


def recipe(name, passage_len, epochs):
    """What the cells of a set have in common."""
    flags = ["--train_group_size", "1", "--temperature", "0.05", "--warmup_ratio", "0.1", "--query_max_len", "64"]
    flags += ["--passage_max_len", str(passage_len), "--num_train_epochs", str(epochs)]
    return flags + FLAGS_OF_SET.get(name, [])


def cells_of(name):
    """Label -> flags of the cells of a set."""
    common = recipe(name, SETS[name]["passage"], SETS[name]["epochs"]) + ["--per_device_train_batch_size", "32"]
    cells = {"no flags": []}
    for part, flags in PARTS.items():
        cells[part] = common + flags
        cells[part + ", Matryoshka"] = common + flags + MATRYOSHKA
    cells["no flags, more rows"] = []
    # A sixteenth of the steps, at more than three times the rate.
    common = recipe(name, SETS[name]["large"][1], SETS[name]["epochs"])
    cells["batches of 32"] = common + ["--per_device_train_batch_size", "32", "--learning_rate", "3e-5"]
    cached = ["--per_device_train_batch_size", "512", "--learning_rate", "1e-4", "--memory_budget", "800MB"]
    cells["batches of 512, gradient cache"] = common + cached
    return cells


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make_data(data, out, settings):
    if (out / "pool.jsonl").exists():
        return
    rng = random.Random(SEED)
    train, test = read(data / "train.jsonl"), read(data / "test.jsonl")
    corpus = [row["text"] for row in read(data / "corpus.jsonl")]
    rng.shuffle(train)
    rng.shuffle(test)
    test = test[: settings["queries"]]
    write(out / "train.jsonl", train[: settings["rows"]])
    write(out / "train.large.jsonl", train[: settings["large"][0]])
    write(out / "test.jsonl", test)
    wanted = {text for row in test for text in row["pos"]}
    others = [text for text in corpus if text not in wanted]
    texts = wanted | set(rng.sample(others, max(settings["pool"] - len(wanted), 0)))
    write(out / "pool.jsonl", [{"text": text} for text in corpus if text in texts])


def measured(command, log):
    """Runs it; its CPU seconds and its peak memory in MB."""
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"failed, see {log}: {command}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def per_query(vectors, rows, pool):
    """Reciprocal rank and nDCG of each query among the first 10."""
    queries, passages = vectors
    place = {text: i for i, text in enumerate(pool)}
    ranked = np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :10]
    discounts = 1 / np.log2(np.arange(2, 12))
    found = np.array([np.isin(top, [place[text] for text in row["pos"]]) for row, top in zip(rows, ranked)])
    ideal = np.array([discounts[: len(set(row["pos"]))].sum() for row in rows])
    first = np.where(found.any(1), 1 / (1 + found.argmax(1)), 0.0)
    return {"mrr": first, "ndcg": (found * discounts).sum(1) / ideal}


def evaluate(embertune, model, out, settings, work):
    vectors = []
    rows, pool = read(out / "test.jsonl"), [row["text"] for row in read(out / "pool.jsonl")]
    write(work / "queries.jsonl", [{"text": row["query"]} for row in rows])
    for texts in (work / "queries.jsonl", out / "pool.jsonl"):
        vectors.append(work / f"{texts.stem}.npy")
        command = [embertune, "embed", "--model_name_or_path", model, "--input_file", texts, "--output_file", vectors[-1]]
        measured(command + ["--max_seq_length", settings["texts"], "--precision", "fp32"], work / "embed.log")
    full = [np.load(path) for path in vectors]
    cut = [v[:, :CUT] / np.linalg.norm(v[:, :CUT], axis=1, keepdims=True) for v in full]
    return {f"{name}{suffix}": values for suffix, v in (("", full), (f"@{CUT}", cut)) for name, values in per_query(v, rows, pool).items()}


def run_set(name, args):
    settings, out = SETS[name], args.out / name
    make_data(args.data / settings["folder"], out, settings)
    results = out / "cells.jsonl"
    done = {row["cell"] for row in read(results)} if results.exists() else set()
    for cell, flags in {"base": None, **cells_of(name)}.items():
        if cell in done or (args.cell and cell not in args.cell):
            continue
        work = out / cell.replace(" ", "-").replace(",", "")
        work.mkdir(parents=True, exist_ok=True)
        row, model = {"cell": cell}, args.model
        if flags is not None:
            model = work / "model"
            is_large = cell.startswith("batches") or cell.endswith("more rows")
            rows = out / ("train.large.jsonl" if is_large else "train.jsonl")
            command = [args.embertune, "train", "--model_name_or_path", args.model, "--train_data", rows]
            command += ["--output_dir", model, "--overwrite_output_dir", "--save_steps", "0", "--logging_steps", "10", "--precision", "fp32"]
            row["cpu_s"], row["memory_mb"] = measured(command + flags, work / "train.log")
        values = evaluate(args.embertune, model, out, settings, work)
        if flags is None:
            np.savez(out / "base.npz", **values)
        base = np.load(out / "base.npz")
        for metric, list_ in values.items():
            difference = list_ - base[metric]
            row[metric] = float(list_.mean())
            row[metric + " gain"] = float(difference.mean())
            row[metric + " error"] = float(difference.std(ddof=1) / len(difference) ** 0.5)
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def table(name, args):
    print(f"\n### {name}\n")
    print("| trained | MRR@10 | gain | nDCG@10 | gain | nDCG@10 of 64 numbers | CPU s | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for row in read(args.out / name / "cells.jsonl"):
        gain = lambda metric: f"{row[metric + ' gain']:+.4f} ± {row[metric + ' error']:.4f}" if "cpu_s" in row else ""
        cost = f"{row['cpu_s']:.0f} | {row['memory_mb']:.0f} MB" if "cpu_s" in row else " | "
        numbers = [f"{row['mrr']:.4f}", gain("mrr"), f"{row['ndcg']:.4f}", gain("ndcg"), f"{row[f'ndcg@{CUT}']:.4f}"]
        print(f"| {row['cell']} | {' | '.join(numbers)} | {cost} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--embertune", type=Path, default=Path(__file__).parents[2] / "target/release/embertune")
    parser.add_argument("--only", choices=SETS, action="append", help="these sets alone")
    parser.add_argument("--cell", action="append", help="these cells alone; `base` has to be there or among them")
    parser.add_argument("--table", action="store_true", help="print what is there")
    args = parser.parse_args()
    for name in args.only or SETS:
        table(name, args) if args.table else run_set(name, args)


if __name__ == "__main__":
    main()
