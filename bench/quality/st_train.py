#!/usr/bin/env python3
"""Fine-tune a model with sentence-transformers on a file of triplets, in file order.

    st_train.py MODEL TRAIN.jsonl OUT --batch 32 --lr 2e-5

The reference that Embertune is compared with: sentence-transformers' own model and
MultipleNegativesRankingLoss (InfoNCE with in-batch negatives and the hard negative), torch's
AdamW, transformers' linear schedule with ceil(0.1 * steps) warm-up steps, gradient norm cut at
1.0, weight decay 0, one epoch, last incomplete batch dropped. A plain loop instead of
SentenceTransformerTrainer, because the loop fixes the order of the rows and lets queries and
passages have different maximum lengths.

TRAIN.jsonl has rows {"query","pos":[text],"neg":[text]}; the first of each list is used.
Writes the trained folder OUT and in it
- losses.jsonl {"step","loss","grad_norm","lr"}: step from 1, loss before the step, gradient norm
  before it is cut, lr that the step used;
- st_train.json: settings, versions, seconds (wall clock and CPU), speed, peak memory.
"""

import argparse
import contextlib
import json
import math
import resource
import time
from pathlib import Path

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import get_linear_schedule_with_warmup


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="sentence-transformers folder to start from")
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--temperature", type=float, default=0.02)
    parser.add_argument("--warmup-ratio", type=float, default=0.1)
    parser.add_argument("--query-max", type=int, default=64, help="tokens, special ones included")
    parser.add_argument("--passage-max", type=int, default=256, help="tokens, special ones included")
    parser.add_argument("--max-steps", type=int, help="stop after this many steps (the schedule is theirs too)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: autocast, weights stay f32")
    parser.add_argument("--dropout", choices=["off", "as-is"], default="off", help="as-is: as in config.json")
    parser.add_argument("--seed", type=int, default=42, help="of the dropout")
    parser.add_argument("--skip-steps", type=int, default=5, help="first steps left out of the speed")
    return parser.parse_args()


def read_batches(path, batch, max_steps):
    """Full batches of (query, positive, negative) columns in file order."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [(row["query"], row["pos"][0], row["neg"][0]) for row in rows]
    steps = min(len(rows) // batch, max_steps or len(rows))
    return [list(zip(*rows[i * batch : (i + 1) * batch])) for i in range(steps)]


class Training:
    """A model in training: `tokenize` the columns of a batch, then take a `step` with them."""

    def __init__(self, model, total_steps, lr=2e-5, temperature=0.02, warmup_ratio=0.1, dtype="f32", dropout="off"):
        self.model = model
        model.train(dropout == "as-is")
        self.loss_function = MultipleNegativesRankingLoss(model, scale=1 / temperature)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True
        )
        self.warmup_steps = math.ceil(warmup_ratio * total_steps)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, self.warmup_steps, total_steps)
        self.autocast = contextlib.nullcontext if dtype == "f32" else lambda: torch.autocast("cpu", torch.bfloat16)

    def tokenize(self, columns, query_max=64, passage_max=256):
        """The features of (queries, positives, negatives), each column padded to its longest text."""
        return [
            dict(self.model.tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"))
            for texts, limit in zip(columns, (query_max, passage_max, passage_max))
        ]

    def step(self, features):
        """One optimizer step: its loss, gradient norm before it is cut, and learning rate."""
        # The model writes its outputs into the dictionaries that it gets.
        features = [dict(column) for column in features]
        with self.autocast():
            loss = self.loss_function(features, None)
        self.optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        lr = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        return {"loss": loss.item(), "grad_norm": grad_norm.item(), "lr": lr}


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    batches = read_batches(args.train, args.batch, args.max_steps)
    if not batches:
        raise SystemExit(f"{args.train}: not one full batch of {args.batch} rows")

    model = SentenceTransformer(args.model, device="cpu", model_kwargs={"dtype": torch.float32})
    training = Training(model, len(batches), args.lr, args.temperature, args.warmup_ratio, args.dtype, args.dropout)

    args.out.mkdir(parents=True, exist_ok=True)
    step_seconds, step_tokens = [], []
    start, cpu_start = time.perf_counter(), time.process_time()
    with open(args.out / "losses.jsonl", "w", encoding="utf-8") as log:
        for step, columns in enumerate(batches, start=1):
            step_start = time.perf_counter()
            features = training.tokenize(columns, args.query_max, args.passage_max)
            step_tokens.append(sum(int(column["attention_mask"].sum()) for column in features))
            log.write(json.dumps({"step": step, **training.step(features)}) + "\n")
            log.flush()
            step_seconds.append(time.perf_counter() - step_start)
    train_seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start

    model.eval()
    model.save(str(args.out), create_model_card=False)
    skip = min(args.skip_steps, len(batches) - 1)
    timed_seconds = sum(step_seconds[skip:])
    summary = {
        "steps": len(batches),
        "warmup_steps": training.warmup_steps,
        "train_seconds": train_seconds,
        "cpu_seconds": cpu_seconds,
        "examples_per_second": args.batch * len(step_seconds[skip:]) / timed_seconds,
        "tokens_per_second": sum(step_tokens[skip:]) / timed_seconds,
        "tokens": sum(step_tokens),
        "skipped_steps": skip,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
    }
    (args.out / "st_train.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(
        f"{args.out}: {len(batches)} steps in {train_seconds:.1f} s, "
        f"{summary['examples_per_second']:.2f} examples/s, {summary['tokens_per_second']:.0f} tokens/s "
        f"(real tokens, first {skip} steps left out), peak memory {summary['peak_rss_bytes'] / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
