#!/usr/bin/env python3
"""Make the training and candidate files that both sides of the quality comparison read.

    make_data.py DATA OUT --model all-MiniLM-L6-v2 --set minilm:2048:5000 --set mpnet:512:2000

DATA is a retrieval folder: corpus.jsonl {"id","text"}, train.jsonl and test.jsonl
{"query","pos":[text]}. For each `--set NAME:ROWS:POOL` this writes into OUT/NAME

- train-<seed>.jsonl: ROWS rows {"query","pos":[text],"neg":[text]} of train.jsonl in a
  seeded random order. The negative is drawn from rank 2-50 of the whole corpus by cosine
  similarity of --model, never a known positive of the query.
- pool-<POOL>.jsonl: {"context":[text]}, all positives of test.jsonl and a seeded sample of
  other documents, in corpus order.

Files of one seed start with the same rows whatever ROWS is. Vectors are computed once and
kept in OUT/vectors.safetensors.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

FIRST_RANK, LAST_RANK = 2, 50
POOL_SEED = 0


def read_jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows)} rows")


def vectors(model_dir, corpus, queries, cache):
    """Normalised vectors of the corpus and of the queries, from `cache` if it is of these texts."""
    key = hashlib.sha256(json.dumps([Path(model_dir).name, corpus, queries]).encode()).hexdigest()
    if cache.exists():
        with safe_open(cache, framework="pt") as file:
            if file.metadata()["key"] == key:
                return file.get_tensor("corpus"), file.get_tensor("queries")
    model = SentenceTransformer(model_dir, device="cpu", model_kwargs={"dtype": torch.float32})
    encode = lambda texts: model.encode(
        texts, batch_size=64, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=True
    ).cpu()
    found = {"corpus": encode(corpus), "queries": encode(queries)}
    save_file(found, cache, metadata={"key": key})
    return found["corpus"], found["queries"]


def ranked_corpus(query_vectors, corpus_vectors):
    """The first LAST_RANK corpus lines of each query, best first, ties in corpus order."""
    ranked = []
    for block in query_vectors.split(256):
        order = torch.sort(block @ corpus_vectors.T, dim=1, descending=True, stable=True).indices
        ranked += order[:, :LAST_RANK].tolist()
    return ranked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True, help="folder of the model that ranks the negatives")
    parser.add_argument("--set", action="append", required=True, metavar="NAME:ROWS:POOL", dest="sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()

    corpus = [row["text"] for row in read_jsonl(args.data / "corpus.jsonl")]
    train, test = read_jsonl(args.data / "train.jsonl"), read_jsonl(args.data / "test.jsonl")
    args.out.mkdir(parents=True, exist_ok=True)
    corpus_vectors, query_vectors = vectors(
        args.model, corpus, [row["query"] for row in train], args.out / "vectors.safetensors"
    )
    ranked = ranked_corpus(query_vectors, corpus_vectors)
    known = {}
    for row in train:
        known.setdefault(row["query"], set()).update(row["pos"])

    for name, rows, pool_size in (entry.split(":") for entry in args.sets):
        for seed in args.seeds:
            rng = random.Random(seed)
            order = list(range(len(train)))
            rng.shuffle(order)
            written = []
            for i in order[: int(rows)]:
                query, positive = train[i]["query"], train[i]["pos"][0]
                hard = [corpus[j] for j in ranked[i][FIRST_RANK - 1 :] if corpus[j] not in known[query]]
                written.append({"query": query, "pos": [positive], "neg": [rng.choice(hard)]})
            write_jsonl(args.out / name / f"train-{seed}.jsonl", written)

        wanted = {text for row in test for text in row["pos"]}
        rest = [i for i, text in enumerate(corpus) if text not in wanted]
        sample = set(random.Random(POOL_SEED).sample(rest, int(pool_size) - len(wanted)))
        pool = [{"context": [text]} for i, text in enumerate(corpus) if text in wanted or i in sample]
        write_jsonl(args.out / name / f"pool-{pool_size}.jsonl", pool)


if __name__ == "__main__":
    main()
