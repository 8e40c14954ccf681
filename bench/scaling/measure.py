#!/usr/bin/env python3
"""What a step costs on several hosts: measured on network namespaces with limited links (scripts/mpi-hosts), and a model fitted to it.

    cargo build --release --features mpi
    bench/scaling/measure.py measure --model .cache/models/all-MiniLM-L6-v2 --data ../shared/data/debian-packages --out FOLDER
    bench/scaling/measure.py measure --model ../shared/golden/tiny-bert --dim 48 --only wire --mbit 0 --data ... --out FOLDER
    bench/scaling/measure.py measure --only sums --mbit 1000 --build NAME --program PROGRAM --model ... --data ... --out FOLDER
    bench/scaling/measure.py predict --out FOLDER

`measure` appends to FOLDER/raw.csv as soon as there is a measurement (`--only compute|pairs|wire|tokenize|encode` does a part of it, in less than two
minutes each; `sums`, in which builds are compared, takes three and is no part of the whole); `predict` fits the model of docs/scaling.md to all lines and prints its tables. Takes root, iproute2 and Open MPI.
Let nothing else run on the machine.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIELDS = ["what", "hosts", "mbit", "rows", "tokens", "pairs", "parameters", "dim", "step_s", "wire_s", "sent_bytes", "received_bytes", "texts", "data_s", "flags", "build"]


def on_hosts(n, mbit, command):
    """Runs it, and gives how long it took."""
    start = time.monotonic()
    hosts = [str(ROOT / "scripts/mpi-hosts"), str(n), str(mbit)] if n > 1 else []
    done = subprocess.run(hosts + command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return time.monotonic() - start


def rows_of(data, n, short, folder):
    """The first rows, each with a passage of the next one as its negative. `short` ones have texts of a word and a number, few different ones."""
    path = folder / f"rows-{n}-{short}.jsonl"
    read = [] if short else [json.loads(line) for _, line in zip(range(n + 1), open(data / "train.jsonl"))]
    with open(path, "w") as out:
        for i in range(n):
            if not short:
                query, positive, negative = read[i]["query"], read[i]["pos"][0], read[i + 1]["pos"][0]
            else:
                query, positive, negative = f"query {i % 16}", f"right {i % 16}", f"wrong {i % 16}"
            out.write(json.dumps({"query": query, "pos": [positive], "neg": [negative]}) + "\n")
    return path


def train(args, what, hosts, mbit, rows, steps, short=False, n_rows=0, flags=()):
    """The median step after the first, of hosts with `rows` rows each. Texts of short rows are computed once in a batch, without dropout."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = rows_of(args.data, max(n_rows, hosts * rows * steps), short, folder)
        on_hosts(hosts, mbit, [args.program, "train", "--model_name_or_path", args.model, "--train_data", str(data), "--output_dir",
            str(folder / "out"), "--per_device_train_batch_size", str(rows), "--negatives_cross_device", "--train_group_size", "2",
            "--max_steps", str(steps), "--logging_steps", "1", "--threads", "1", "--query_max_len", "64",
            "--passage_max_len", "256"] + (["--dropout", "0"] if short else []) + list(flags))
        lines = [line for line in map(json.loads, open(folder / "out/log.jsonl")) if "loss" in line][1:]
        record = json.load(open(folder / "out/run.json"))
    step_s = [hosts * rows / line["examples_per_s"] for line in lines]
    wire = [line.get("wire_per_step", {}) for line in lines]
    median = lambda field: statistics.median(line.get(field, 0) for line in wire)
    keep(args, what=what, hosts=hosts, mbit=mbit, rows=rows, tokens=round(statistics.mean(line["tokens_per_s"] * s for line, s in zip(lines, step_s))),
        pairs=(hosts * rows) * (2 * hosts * rows), parameters=record["counts"]["parameters"], dim=args.dim, step_s=statistics.median(step_s),
        wire_s=median("seconds"), sent_bytes=median("sent_bytes"), received_bytes=median("received_bytes"), texts=record["counts"]["texts"],
        data_s=record["seconds"]["data"], flags=" ".join(flags), build=args.build)


def encode(args, n_passages):
    """Encoding by one and two hosts, without the start: the difference to a tenth of the passages."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        texts = [json.loads(line)["text"].replace("\n", " ") for _, line in zip(range(n_passages), open(args.data / "corpus.jsonl"))]
        for hosts, mbit in [(1, 0), (2, 0), (2, 100)]:
            took = []
            for part in [n_passages // 10, n_passages]:
                (folder / "texts.txt").write_text("\n".join(texts[:part]) + "\n")
                took.append(on_hosts(hosts, mbit, [args.program, "embed", "--model_name_or_path", args.model, "--input_file",
                    str(folder / "texts.txt"), "--output_file", str(folder / "v.npy"), "--threads", "1"]))
            keep(args, what="encode", hosts=hosts, mbit=mbit, rows=n_passages - n_passages // 10, step_s=took[1] - took[0])


def keep(args, **line):
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "raw.csv"
    is_new = not path.exists()
    with open(path, "a") as out:
        writer = csv.DictWriter(out, FIELDS)
        if is_new:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in line.items()})
    print(" ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in line.items()), flush=True)


def measure(args):
    wants = lambda part: args.only in (None, part)
    if wants("compute"):
        for hosts in [1, 2]:
            train(args, "compute", hosts, 0, 32, 8)
    if wants("pairs"):
        for rows in [64, 1024, 2048]:
            train(args, "pairs", 1, 0, rows, 5, short=True)
    if wants("wire"):
        for mbit in [300, 1000, 0] if args.mbit is None else [args.mbit]:
            for hosts in [2, 3, 4]:
                train(args, "wire", hosts, mbit, 2, 5, short=True)
    if args.only == "sums":
        for flags in [[], ["--reduce_dtype", "bf16"], ["--shard_optimizer"]]:
            train(args, "sums", 2, args.mbit, args.rows, args.steps, flags=flags)
    if wants("tokenize"):
        train(args, "tokenize", 1, 0, 2, 2, n_rows=7000)
    if wants("encode"):
        encode(args, 3000)


# The model. A rank's step takes
#   token_s * tokens / W + pair_s * pairs + optimizer_s
#   + sent_bytes / (used * bandwidth) + copy_s * sent_bytes + message_s * n_exchanges * (W - 1)
# with sent_bytes = (W - 1) / W * (8 * parameters + 4 * dim * texts).

PIECE = 1 << 22


def exchanges(parameters):
    """Per step: two for each piece of a sum, the embeddings, and two short ones (losses; whether to stop or save)."""
    return 2 * -(-parameters // PIECE) + 3


def sent(hosts, parameters, texts, dim):
    return (hosts - 1) / hosts * (8 * parameters + 4 * dim * texts)


def solve(rows, targets):
    """Least squares of a few unknowns, by the normal equations."""
    n = len(rows[0])
    a = [[sum(r[i] * r[j] for r in rows) for j in range(n)] + [sum(r[i] * t for r, t in zip(rows, targets))] for i in range(n)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(a[k][i]))
        a[i], a[pivot] = a[pivot], a[i]
        for k in range(n):
            if k != i:
                factor = a[k][i] / a[i][i]
                a[k] = [x - factor * y for x, y in zip(a[k], a[i])]
    return [a[i][n] / a[i][i] for i in range(n)]


def fit(lines):
    """token_s, pair_s and optimizer_s from one host. On links without limit copy_s is that of the largest model on two hosts, whose ranks have a
    core each, and message_s what the smallest takes beyond that on more; there ranks wait for a core, so that it is too large rather than too small. The
    share of a link that is used is the median of all steps on limited links."""
    of = lambda *whats: [line for line in lines if line["what"] in whats]
    alone = [line for line in of("compute", "pairs") if line["hosts"] == 1]
    weight = lambda line: 1 / line["step_s"]
    token_s, pair_s, optimizer_s = solve([[line["tokens"] * weight(line), line["pairs"] * weight(line), weight(line)] for line in alone], [1] * len(alone))
    full = [line for line in of("wire") if not line["mbit"]]
    sizes = sorted({line["parameters"] for line in full})
    copy_s = statistics.median(line["wire_s"] / line["sent_bytes"] for line in full if line["parameters"] == sizes[-1] and line["hosts"] == 2)
    messages = lambda line: exchanges(line["parameters"]) * (line["hosts"] - 1)
    beyond = lambda line: (line["wire_s"] - copy_s * line["sent_bytes"]) / messages(line)
    message_s = statistics.median(beyond(line) for line in full if line["parameters"] == sizes[0] and line["hosts"] > 2)
    limited = [line for line in of("wire") if line["mbit"]]
    on_link = lambda line: line["wire_s"] - copy_s * line["sent_bytes"] - message_s * messages(line)
    used = statistics.median(line["sent_bytes"] * 8 / (line["mbit"] * 1e6) / on_link(line) for line in limited)
    return dict(token_s=token_s, pair_s=pair_s, optimizer_s=optimizer_s, copy_s=copy_s, message_s=message_s, used=used)


def predict(args):
    lines = [{k: v if k in ("what", "flags", "build") else float(v or 0) for k, v in line.items()} for line in csv.DictReader(open(args.out / "raw.csv"))]
    m = fit(lines)
    print("fitted:", {name: f"{value:.3g}" for name, value in m.items()})
    wire_s = lambda hosts, mbit, bytes_, parameters: (bytes_ * 8 / (mbit * 1e6 * m["used"]) if mbit else 0) + m["copy_s"] * bytes_ + m["message_s"] * exchanges(parameters) * (hosts - 1)
    print("\n| hosts | Mbit/s | bytes sent: measured | formula | wire: measured, s | model, s |\n|---|---|---|---|---|---|")
    for line in lines:
        if line["what"] == "wire":
            w = int(line["hosts"])
            bytes_ = sent(w, line["parameters"], 3 * w * line["rows"], line["dim"])
            model = wire_s(w, line["mbit"], bytes_, line["parameters"])
            print(f"| {w} | {line['mbit']:.0f} | {line['sent_bytes']:,.0f} | {bytes_:,.0f} | {line['wire_s']:.3f} | {model:.3f} |")
    print("\nsteps of batches of 32 rows a host, from the model:\n")
    print("| network | model | hosts | tokens' part, s | loss, s | wire, s | examples/s against one host |\n|---|---|---|---|---|---|---|")
    tokens = next(line["tokens"] / line["rows"] for line in lines if line["what"] == "compute" and line["hosts"] == 1)
    for mbit in [1000, 10_000, 100_000]:
        for name, parameters, dim, factor, cores in MODELS:
            for hosts in [1, 8, 64, 512]:
                compute = factor * m["token_s"] * tokens * args.rows / cores
                n = hosts * args.rows
                pairs = m["pair_s"] * dim / args.dim * 2 * n * n / cores
                wire = 0 if hosts == 1 else wire_s(hosts, mbit, sent(hosts, parameters, 3 * n, dim), parameters)
                one = compute + m["pair_s"] * dim / args.dim * 2 * args.rows**2 / cores
                speed = hosts * one / (compute + pairs + wire)
                print(f"| {mbit // 1000} Gbit/s | {name} | {hosts} | {compute:.3f} | {pairs:.3f} | {wire:.3f} | {speed:.1f} |")
    predict_pool(lines, m)


def predict_pool(lines, m):
    """A pool of 100 million passages, from encoding and tokenizing as measured, and searching as on the same machine (SEARCH)."""
    of = lambda what, hosts: next(line for line in lines if line["what"] == what and line["hosts"] == hosts)
    one = of("encode", 1)
    text_s, tokenize_s = one["step_s"] / one["rows"], of("tokenize", 1)["data_s"] / of("tokenize", 1)["texts"]
    print(f"\na passage on one core: {text_s * 1e3:.2f} ms to encode, {tokenize_s * 1e6:.0f} us of them to read and tokenize\n")
    print("| passages | hosts | encode, s | tokenize, s | vectors to each at 1 / 10 / 100 Gbit/s, s | search, s | vectors in memory, GB |\n|---|---|---|---|---|---|---|")
    for n in [1e6, 1e7, 1e8]:
        for hosts in [1, 8, 64, 512]:
            cores, dim, n_queries = 16, 384, 1e5
            wire = [0 if hosts == 1 else n * dim * 4 * (hosts - 1) / hosts * (8 / (gbit * 1e9 * m["used"]) + m["copy_s"]) for gbit in [1, 10, 100]]
            search = n * n_queries / SEARCH / cores / hosts
            print(f"| {n:,.0f} | {hosts} | {n * (text_s - tokenize_s) / cores / hosts:,.0f} | {n * tokenize_s / cores:,.0f} | "
                  f"{' / '.join(f'{s:,.0f}' for s in wire)} | {search:,.0f} | {n * dim * 4 / 1e9:,.0f} |")


# Pairs of a query and a passage of 384 values that a core searches in a second: bench/runs/2026-11-29-zen5-2core, 8,000 queries in 60,000.
SEARCH = 8000 * 60_000 / 0.592 / 2

# Trained values, width, work per token against MiniLM's (products of the layers), cores of a host.
MODELS = [
    ("MiniLM", 22_600_000, 384, 1.0, 16),
    ("mpnet, BERT-base", 109_000_000, 768, 8.0, 16),
    ("BERT-base with LoRA of rank 8", 295_000, 768, 8.0, 16),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["measure", "predict"])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--program", default=str(ROOT / "target/release/embertune"))
    parser.add_argument("--only", choices=["compute", "pairs", "wire", "sums", "tokenize", "encode"])
    parser.add_argument("--mbit", type=int, help="of `wire` and `sums`, links of this speed alone")
    parser.add_argument("--dim", type=int, default=384, help="width of the measured model's vectors")
    parser.add_argument("--rows", type=int, default=32, help="rows of a host in a step, predicted or of `sums`")
    parser.add_argument("--steps", type=int, default=7, help="of each run of `sums`, of which the first is not counted")
    parser.add_argument("--build", default="", help="what the program is called in the file")
    args = parser.parse_args()
    measure(args) if args.work == "measure" else predict(args)


main()
