"""Values and gradients of losses that ../shared/golden does not have, from sentence-transformers' own classes:

    python make_losses.py > losses_st.json

Inputs are few digits, so that float32 holds what the file says. Gradients are with respect to the vectors as given."""
import json

import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import losses as L


class Given(torch.nn.Module):
    """A 'model' that returns the vectors that it is given."""

    def forward(self, features):
        return {"sentence_embedding": features["x"]}


def run(loss, columns, labels=None):
    columns = [x.clone().requires_grad_() for x in columns]
    value = loss([{"x": x} for x in columns], labels)
    return float(value.detach()), list(torch.autograd.grad(value, columns))


def numbers(x):
    return [float(f"{v:.9g}") for v in x.reshape(-1).tolist()]


def case(name, params, loss, columns, labels=None):
    value, gradients = run(loss, columns, labels)
    # Row i of every column, one after the other: the groups of embertune.
    d_passages = torch.stack(gradients[1:], 1)
    return {"name": name, "params": params, "loss": value, "d_queries": numbers(gradients[0]), "d_passages": numbers(d_passages)}


def main():
    torch.manual_seed(1)
    n, d = 5, 6
    draw = lambda *shape: (torch.randn(shape) * 64).round() / 64
    queries, columns = draw(n, d), [draw(n, d) for _ in range(3)]
    columns[0] += queries / 2
    labels = torch.tensor([1, 0, 1, 0, 0])
    mnrl = lambda **k: L.MultipleNegativesRankingLoss(Given(), scale=4, **k)
    cases = []
    for mode in ["in_batch_negatives", "hard_negatives", "all_negatives"]:
        params = {"temperature": 0.25, "hardness_mode": mode, "hardness_strength": 5}
        loss = mnrl(hardness_mode=mode, hardness_strength=5.0)
        cases.append(case(f"hardness_{mode}", params, loss, [queries, *columns]))
    every = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    loss = mnrl(directions=every, hardness_mode="all_negatives", hardness_strength=5.0)
    params = {"temperature": 0.25, "hardness_mode": "all_negatives", "hardness_strength": 5, "directions": "joint"}
    cases.append(case("hardness_joint", params, loss, [queries, *columns]))
    for name, y in [("online_contrastive", labels), ("online_contrastive_all_alike", torch.ones(n)), ("online_contrastive_all_unlike", torch.zeros(n))]:
        loss = L.OnlineContrastiveLoss(Given(), margin=0.9)
        cases.append(case(name, {"margin": 0.9, "labels": y.tolist()}, loss, [queries, columns[0]], y))
    versions = {"torch": torch.__version__, "sentence_transformers": sentence_transformers.__version__}
    passages = torch.stack(columns, 1)
    print(json.dumps({"versions": versions, "dim": d, "queries": numbers(queries), "passages": numbers(passages), "positives": numbers(columns[0]), "cases": cases}, indent=0))


if __name__ == "__main__":
    main()
