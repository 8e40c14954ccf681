"""Learning rates of transformers' schedules, for the test `schedules`.

    python tests/golden/make_schedules.py      (needs torch and transformers; made with transformers 5.23)

schedules.json: for each case the name, the warm-up, the parameters, and the rate that each step of `total_steps` uses at a peak of 1e-3.
"""

import json
from pathlib import Path

import torch
from transformers import get_scheduler

TOTAL, PEAK = 24, 1e-3
CASES = [
    (name, warmup, {})
    for name in ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"]
    for warmup in [0, 5]
] + [
    ("cosine", 5, {"num_cycles": 1.5}),
    ("cosine_with_restarts", 5, {"num_cycles": 3}),
    ("polynomial", 5, {"power": 2.0, "lr_end": 1e-5}),
    ("inverse_sqrt", 5, {"timescale": 50}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 7}),
    ("warmup_stable_decay", 0, {"num_decay_steps": 7, "decay_type": "linear"}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 7, "warmup_type": "cosine", "decay_type": "1-sqrt", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 7, "warmup_type": "1-sqrt", "num_stable_steps": 4, "min_lr_ratio": 0.05}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 9, "num_cycles": 1.5}),
]


def rates(name, warmup, kwargs):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=dict(kwargs))
    used = []
    for _ in range(TOTAL):
        used.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return used


cases = [{"name": n, "warmup_steps": w, "kwargs": k, "rates": rates(n, w, k)} for n, w, k in CASES]
lines = ",\n".join(json.dumps(case) for case in cases)
text = f'{{"total_steps": {TOTAL}, "learning_rate": {PEAK}, "cases": [\n{lines}\n]}}\n'
Path(__file__).with_name("schedules.json").write_text(text)
