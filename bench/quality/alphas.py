#!/usr/bin/env python3
"""Which rule `--merge_alpha auto` should follow: a simulation on what choices.py left.

    alphas.py MODEL OUT [--embertune target/release/embertune] [--dev 50 100 200]

For each set in OUT, base (MODEL) and tuned model (the cell "all weights") are mixed by hand, and test queries and pool are embedded by each
mixture. Then test queries are drawn as dev queries, again and again: each rule chooses an alpha by them, and is judged by the other
queries. Values are MRR@10 minus that of the base, and the mean alpha.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from choices import SETS, evaluate
from safetensors.numpy import load_file, save_file

ALPHAS = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
DRAWS = 1000


def mixture(base, tuned, alpha, folder):
    if alpha in (0.0, 1.0):
        return tuned if alpha else base
    shutil.copytree(tuned, folder, dirs_exist_ok=True)
    of_base, of_tuned = (load_file(model / "model.safetensors") for model in (base, tuned))
    mixed = {name: (1 - alpha) * of_base[name] + alpha * values for name, values in of_tuned.items() if values.dtype.kind == "f"}
    save_file({**of_tuned, **{name: values.astype("f4") for name, values in mixed.items()}}, folder / "model.safetensors")
    return folder


def error(values, other):
    return (values - other).std(ddof=1) / len(values) ** 0.5


def within(tried, best):
    """The smallest alpha that is behind the best by a standard error at most."""
    behind = [tried[best].mean() - values.mean() <= error(values, tried[best]) for values in tried]
    return behind.index(True)


def beyond(tried, factor):
    """The tuned model, unless another alpha is better by more than `factor` standard errors: then the best one."""
    last = len(tried) - 1
    best = max(range(len(tried)), key=lambda i: tried[i].mean())
    return best if tried[best].mean() - tried[last].mean() > factor * error(tried[best], tried[last]) else last


def least(tried):
    """The smallest alpha that is not behind the tuned model."""
    return next(i for i, values in enumerate(tried) if values.mean() >= tried[-1].mean())


def best_of(tried):
    return max(range(len(tried)), key=lambda i: tried[i].mean())


RULES = {
    "always 1": (slice(None), lambda tried: len(tried) - 1),
    "smallest within an error of the best of 6": (slice(None), lambda tried: within(tried, best_of(tried))),
    "best of 6": (slice(None), best_of),
    "smallest of 6 not behind 1": (slice(None), least),
    "1 unless another of 6 is better by an error": (slice(None), lambda tried: beyond(tried, 1)),
    "1 unless another of 0, 0.4, 0.8 is better by an error": ([0, 2, 4, 5], lambda tried: beyond(tried, 1)),
    "1 unless another of 0, 0.6 is better by an error": ([0, 3, 5], lambda tried: beyond(tried, 1)),
}


def values_of(name, args):
    """Reciprocal ranks by alpha and query."""
    path = args.out / name / "alphas.npy"
    if not path.exists():
        values = []
        for alpha in ALPHAS:
            work = args.out / name / "mixed"
            work.mkdir(exist_ok=True)
            model = mixture(args.model, args.out / name / "all-weights" / "model", alpha, work / "model")
            values.append(evaluate(args.embertune, model, args.out / name, SETS[name], work)["mrr"])
        np.save(path, values)
    return np.load(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--embertune", type=Path, default=Path(__file__).parents[2] / "target/release/embertune")
    parser.add_argument("--dev", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--only", choices=SETS, action="append")
    args = parser.parse_args()
    for name in args.only or SETS:
        own = values_of(name, args)
        print(f"\n### {name}\n")
        print("by alpha:", " ".join(f"{a:g}: {x:+.4f}" for a, x in zip(ALPHAS, own.mean(1) - own[0].mean())))
        print("\n| rule | " + " | ".join(f"{n} dev queries" for n in args.dev) + " |")
        print("|---" * (1 + len(args.dev)) + "|")
        for rule, (tried, choose) in RULES.items():
            cells = []
            for n in args.dev:
                rng, found = np.random.default_rng(0), []
                for _ in range(DRAWS):
                    order = rng.permutation(own.shape[1])
                    dev, rest = order[:n], order[n:]
                    chosen = np.arange(len(ALPHAS))[tried][choose(own[tried][:, dev])]
                    gain = own[chosen, rest].mean() - own[0, rest].mean()
                    found.append((gain, ALPHAS[chosen]))
                gain, alpha = np.mean(found, axis=0)
                cells.append(f"{gain:+.4f}, {alpha:.2f}")
            print(f"| {rule} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
