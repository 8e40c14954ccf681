#!/usr/bin/env python3
"""MRR@10, Hit@1 and nDCG@10 of a model folder, with sentence-transformers.

    st_evaluate.py MODEL TEST.jsonl POOL.jsonl [--out FILE.json]

TEST.jsonl has rows {"query","pos":[text]}, POOL.jsonl rows {"context":[text]}. A candidate is
relevant when its text equals a positive of the query. Exact cosine over the whole pool in
float32, ties in pool order. nDCG is binary, its ideal over all positives of the query.
Prints one line of json; --out writes the same to a file.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

DEPTH = 10


def read_jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encode(model, texts, max_tokens):
    model.max_seq_length = max_tokens
    return model.encode(texts, batch_size=32, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)


def query_metrics(ranked, positives):
    """(MRR@10, Hit@1, nDCG@10) of one query; `ranked` are candidate texts, best first."""
    relevant = [text in positives for text in ranked[:DEPTH]]
    reciprocal = next((1 / rank for rank, hit in enumerate(relevant, start=1) if hit), 0.0)
    gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(relevant, start=1) if hit)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(DEPTH, len(positives)) + 1))
    return reciprocal, float(relevant[0]), gain / ideal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("test", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--query-max", type=int, default=64, help="tokens, special ones included")
    parser.add_argument("--passage-max", type=int, default=256, help="tokens, special ones included")
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    test = read_jsonl(args.test)
    pool = [text for row in read_jsonl(args.pool) for text in row["context"]]
    missing = {text for row in test for text in row["pos"]} - set(pool)
    if missing:
        raise SystemExit(f"{args.pool}: {len(missing)} positives of {args.test} are not in it")

    start = time.perf_counter()
    model = SentenceTransformer(args.model, device="cpu", model_kwargs={"dtype": torch.float32})
    queries = encode(model, [row["query"] for row in test], args.query_max)
    candidates = encode(model, pool, args.passage_max)
    order = torch.sort(queries @ candidates.T, dim=1, descending=True, stable=True).indices[:, :DEPTH].tolist()
    rows = [query_metrics([pool[i] for i in best], set(row["pos"])) for best, row in zip(order, test)]
    mrr, hit, ndcg = (sum(column) / len(rows) for column in zip(*rows))
    result = {
        "model": args.model,
        "queries": len(rows),
        "candidates": len(pool),
        "mrr@10": mrr,
        "hit@1": hit,
        "ndcg@10": ndcg,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
