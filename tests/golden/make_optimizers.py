"""Weights after some steps of AdamW and Adafactor, for the test `optimizers`.

    python tests/golden/make_optimizers.py      (needs torch and transformers; made with torch 2.14 and transformers 5.23)

optimizers.json: for each optimizer the weights after every step, in float64. Weights and gradients are small fractions of powers of two,
so that float32 holds them.
"""

import json
from pathlib import Path

import torch
from transformers.optimization import Adafactor

SHAPES = {"layer.query.weight": [3, 4], "layer.key.weight": [3, 4], "layer.query.bias": [5], "table": [6, 2]}
STEPS, LR, DECAY = 5, 0.0625, 0.125


def values(shape, seed):
    n = 1
    for size in shape:
        n *= size
    return torch.tensor([((seed * 37 + i * 101 + i * i * 13) % 257 - 128) / 128 for i in range(n)], dtype=torch.float64).reshape(shape)


def gradient(name, place, step):
    g = values(SHAPES[name], 7 * place + 31 * step)
    if name == "table":
        g[1] = 0  # a word that is in no batch
    return g * 0.5**step


def run(make):
    params = {name: torch.nn.Parameter(values(shape, place)) for place, (name, shape) in enumerate(SHAPES.items())}
    decayed = [p for n, p in params.items() if "bias" not in n]
    others = [p for n, p in params.items() if "bias" in n]
    optimizer = make([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}])
    steps = []
    for step in range(STEPS):
        for place, (name, p) in enumerate(params.items()):
            p.grad = gradient(name, place, step)
        optimizer.step()
        steps.append({name: p.detach().flatten().tolist() for name, p in params.items()})
    return steps


start = [{"name": n, "shape": s, "values": values(s, i).flatten().tolist(),
          "gradients": [gradient(n, i, t).flatten().tolist() for t in range(STEPS)]} for i, (n, s) in enumerate(SHAPES.items())]
golden = {
    "learning_rate": LR,
    "weight_decay": DECAY,
    "tensors": start,
    "adamw_torch": run(lambda groups: torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.999), eps=1e-8)),
    "adafactor": run(lambda groups: Adafactor(groups, lr=LR, scale_parameter=False, relative_step=False)),
}
Path(__file__).with_name("optimizers.json").write_text(json.dumps(golden) + "\n")
