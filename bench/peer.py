#!/usr/bin/env python3
"""The other side of the benchmarks: `cargo xtask bench` starts it and asks it to work, one JSON object a line.

    {"do": NAME, ...} on standard input -> {...} or {"error": TEXT} on standard output

One process stays for the whole benchmark, so that what the peers do once (imports, thread pools, compiled kernels) is paid before
anything counts. NAME is a function in this file that is marked with @answers; its docstring says what it takes and gives.
Everything else that is printed goes to standard error.
"""

import copy
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).parent / "quality"))
from st_train import Training, read_batches

ANSWERS = {}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def answers(function):
    ANSWERS[function.__name__] = function
    return function


class Cached:
    """The last thing that was made, for as long as it is asked for by the same key."""

    def __init__(self):
        self.key, self.value = None, None

    def get(self, key, make):
        if self.key != key:
            # The old one goes first: two models of the larger kind are a lot of memory.
            self.key, self.value = None, None
            gc.collect()
            self.key, self.value = key, make()
        return self.value


MODELS, WEIGHTS = Cached(), Cached()


def model_of(folder, dtype="f32"):
    load = lambda: SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": DTYPES[dtype]})
    return MODELS.get((folder, dtype), load)


@answers
def threads(n):
    """How many threads the peers compute with."""
    torch.set_num_threads(n)
    return {"threads": torch.get_num_threads()}


@answers
def train(model, rows, batch, first, last, dtype, dropout):
    """Steps first..last (from 0, the end excluded) of a run over `rows` in file order, from the folder's own weights.

    Gives lists with one entry per step: losses, grad_norms, seconds, tokens (real ones) and squares (sum over the texts of
    their length squared). Tokenizing is left out of the seconds: Embertune does it before the first step.
    """
    batches = read_batches(rows, batch, last)
    network = model_of(model)
    network.load_state_dict(WEIGHTS.get(model, lambda: copy.deepcopy(network.state_dict())))
    torch.manual_seed(42)
    training = Training(network, last, dtype=dtype, dropout=dropout)
    answer = {"losses": [], "grad_norms": [], "seconds": [], "tokens": [], "squares": []}
    for columns in batches[first:]:
        features = training.tokenize(columns)
        lengths = [int(n) for column in features for n in column["attention_mask"].sum(dim=1)]
        start = time.perf_counter()
        record = training.step(features)
        answer["seconds"].append(time.perf_counter() - start)
        answer["losses"].append(record["loss"])
        answer["grad_norms"].append(record["grad_norm"])
        answer["tokens"].append(sum(lengths))
        answer["squares"].append(sum(n * n for n in lengths))
    network.eval()
    return answer


def read_texts(path, first=None):
    """The texts of JSON lines {"text"}; `first` of them, spread evenly."""
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    n = min(first or len(texts), len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]


@answers
def best_encode(model, texts, first):
    """The batch size and type in which sentence-transformers encodes `first` of the texts fastest: {"dtype", "batch", "tried"}."""
    texts = read_texts(texts, first)
    tried = []

    def measure(dtype, batch):
        network = model_of(model, dtype)
        network.encode(texts[:batch], batch_size=batch, show_progress_bar=False)
        start = time.perf_counter()
        network.encode(texts, batch_size=batch, show_progress_bar=False)
        tried.append({"dtype": dtype, "batch": batch, "seconds": time.perf_counter() - start})

    for batch in (8, 32, 128):
        measure("f32", batch)
    # bf16 is faster or slower by the CPU, not by the batch.
    measure("bf16", min(tried, key=lambda one: one["seconds"])["batch"])
    best = min(tried, key=lambda one: one["seconds"])
    return {"dtype": best["dtype"], "batch": best["batch"], "tried": tried}


@answers
def encode(model, texts, dtype, batch, out):
    """Encodes with sentence-transformers, writes [n, dim] to `out` (.npy). Loading the model and writing are left out of the seconds."""
    texts = read_texts(texts)
    network = model_of(model, dtype)
    start = time.perf_counter()
    vectors = network.encode(texts, batch_size=batch, show_progress_bar=False)
    seconds = time.perf_counter() - start
    np.save(out, vectors.astype(np.float32))
    return {"seconds": seconds}


class Onnx:
    """A model in onnxruntime, f32: its transformer exported by torch, mean pooling and normalisation in numpy."""

    def __init__(self, folder, exported):
        import onnxruntime

        network = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"})
        self.tokenizer, self.max_length = network.tokenizer, network.max_seq_length
        if not Path(exported).exists():
            self.export(network[0].auto_model.eval(), exported)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        self.inputs = {entry.name for entry in self.session.get_inputs()}

    def export(self, transformer, exported):
        class Hidden(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.transformer = transformer

            def forward(self, input_ids, attention_mask):
                return self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

        example = self.tokenizer(["one text", "another one"], return_tensors="pt", padding=True)
        names = ["input_ids", "attention_mask"]
        Path(exported).parent.mkdir(parents=True, exist_ok=True)
        partial = exported + ".partial"
        axes = {name: {0: "batch", 1: "length"} for name in [*names, "hidden"]}
        inputs = tuple(example[name] for name in names)
        torch.onnx.export(
            Hidden(), inputs, partial, input_names=names, output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False
        )
        os.rename(partial, exported)

    def encode(self, texts, batch):
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(ids[i]))
        vectors = [None] * len(texts)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            padded = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="np")
            mask = padded["attention_mask"]
            feed = {"input_ids": padded["input_ids"].astype(np.int64), "attention_mask": mask.astype(np.int64)}
            (hidden,) = self.session.run(None, {name: feed[name] for name in self.inputs})
            summed = np.einsum("blh,bl->bh", hidden, mask.astype(np.float32))
            for i, vector in zip(rows, summed / np.linalg.norm(summed, axis=1, keepdims=True)):
                vectors[i] = vector
        return np.stack(vectors)


ONNX = Cached()


@answers
def encode_onnx(model, exported, texts, first, batch, out):
    """Encodes with onnxruntime, sorted by length. Without `batch`, the fastest one for `first` of the texts is found: {"batch"}."""
    network = ONNX.get(model, lambda: Onnx(model, exported))
    if batch is None:
        some = read_texts(texts, first)
        network.encode(some[:8], 8)
        seconds = {}
        for batch in (8, 32, 128):
            start = time.perf_counter()
            network.encode(some, batch)
            seconds[batch] = time.perf_counter() - start
        return {"batch": min(seconds, key=seconds.get)}
    texts = read_texts(texts)
    start = time.perf_counter()
    vectors = network.encode(texts, batch)
    seconds = time.perf_counter() - start
    np.save(out, vectors.astype(np.float32))
    return {"seconds": seconds}


@answers
def compare_vectors(a, b):
    """The largest distance of two vectors for the same text, both scaled to length 1."""
    a, b = (np.load(path).astype(np.float64) for path in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return {"distance": float(np.linalg.norm(a - b, axis=1).max()), "rows": len(a)}


@answers
def make_vectors(out, n, dim, seed, base):
    """n unit vectors: random ones, or those of the file `base` over and over with noise, so that neighbours are as close as real ones."""
    rng = np.random.default_rng(seed)
    real = None if base is None else np.load(base)
    vectors = np.lib.format.open_memmap(out + ".partial", mode="w+", dtype=np.float32, shape=(n, dim))
    for start in range(0, n, 50_000):
        rows = min(50_000, n - start)
        block = rng.standard_normal((rows, dim), dtype=np.float32)
        if real is not None:
            # As long as 0.3 of the vector: its copies are about as similar as texts on the same matter.
            block *= 0.3 / np.sqrt(dim)
            block += real[np.arange(start, start + rows) % len(real)]
        vectors[start : start + rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()
    os.rename(out + ".partial", out)
    return {}


INDEX = Cached()


@answers
def faiss_search(queries, pool, k, out):
    """Exact search with IndexFlatIP; building the index is left out of the seconds."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())

    def build():
        vectors = np.load(pool)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index

    index, queries = INDEX.get(pool, build), np.load(queries)
    start = time.perf_counter()
    _, ids = index.search(queries, k)
    seconds = time.perf_counter() - start
    np.save(out, ids.astype(np.int64))
    return {"seconds": seconds}


@answers
def compare_ids(queries, pool, a, b):
    """How many of the rows that one side found and the other did not are no ties, by their scores in f64: {"differences", "ties"}."""
    queries, pool = np.load(queries), np.load(pool, mmap_mode="r")
    a, b = (np.load(path).astype(np.int64) for path in (a, b))
    differences = ties = 0
    for query, found, other in zip(queries.astype(np.float64), a, b):
        only = [np.setdiff1d(x, y) for x, y in ((found, other), (other, found))]
        if len(only[0]) or len(only[1]):
            # The last place of both lists lies at the same score, up to the rounding of a sum of f32 products.
            last = min((pool[ids].astype(np.float64) @ query).min() for ids in (found, other))
            scores = np.concatenate([pool[ids].astype(np.float64) @ query for ids in only])
            tied = int((np.abs(scores - last) < 2e-6).sum())
            ties, differences = ties + tied, differences + len(scores) - tied
    return {"differences": differences, "ties": ties}


@answers
def mine(model, rows, corpus, dtype, batch, range_min, range_max, negatives, strategy, out):
    """mine_hard_negatives of sentence-transformers, faiss for its search; rows {"query","pos"}, corpus {"text"}.

    Loading the model and reading the files are left out of the seconds. `out` gets JSON lines {"query","neg"}.
    """
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    with open(rows, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    data = Dataset.from_dict({"query": [row["query"] for row in rows], "positive": [row["pos"][0] for row in rows]})
    texts, network = read_texts(corpus), model_of(model, dtype)
    start = time.perf_counter()
    mined = mine_hard_negatives(
        data, network, corpus=texts, range_min=range_min, range_max=range_max, num_negatives=negatives,
        sampling_strategy=strategy, batch_size=batch, use_faiss=True, output_format="n-tuple", verbose=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    with open(out, "w", encoding="utf-8") as file:
        for row in mined:
            found = [row[f"negative_{i}"] for i in range(1, negatives + 1)]
            file.write(json.dumps({"query": row["query"], "neg": found}) + "\n")
    return {"seconds": seconds}


@answers
def compare_mined(ours, window):
    """How many of our negatives are not in the peer's window of ranks for the same query: {"outside", "negatives"}."""
    read = lambda path: [json.loads(line) for line in open(path, encoding="utf-8")]
    # Texts are compared as Embertune compares them: white space does not count.
    key = lambda text: " ".join(text.split())
    windows = {row["query"]: {key(text) for text in row["neg"]} for row in read(window)}
    outside = negatives = 0
    for row in read(ours):
        # A query whose window is too small for the peer is left out by it.
        if row["query"] in windows:
            negatives += len(row["neg"])
            outside += sum(key(text) not in windows[row["query"]] for text in row["neg"])
    return {"outside": outside, "negatives": negatives}


def main():
    # What the libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = ANSWERS[question.pop("do")](**question)
        except Exception:
            answer = {"error": traceback.format_exc()}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
