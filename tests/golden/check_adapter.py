"""Does PEFT load what `embertune train --lora_r N --save_adapter` wrote, and get the vectors of the merged model?

    python tests/golden/check_adapter.py BASE OUTPUT      (needs torch, transformers, sentence-transformers and peft; exit code 0 or 1)

BASE is the folder of the base model, OUTPUT the output folder: merged model, with the adapter in OUTPUT/adapter. Compared are the adapter on
the base, PEFT's own merge of the two, and the merged model as sentence-transformers loads it.
"""

import sys
import warnings

import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer

TEXTS = ["hello", "How do I fine-tune an embedding model?", "a tool that finds duplicate files", "naïve café, 东京", "x " * 200]
# Sums of f32 in another order; PEFT's own two ways differ by 2e-7 on a tiny model.
TOLERANCE = 5e-6

base, output = sys.argv[1:3]
warnings.filterwarnings("error", message="Found missing adapter keys")


def load(folder):
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32})


def vectors(model):
    return torch.tensor(model.encode(TEXTS, normalize_embeddings=True))


merged, tuned, plain = load(output), load(base), load(base)
adapted = PeftModel.from_pretrained(tuned[0].auto_model, f"{output}/adapter")
n_adapted = sum("lora_B" in name for name, _ in adapted.named_parameters())
tuned[0].auto_model = adapted
unmerged = vectors(tuned)
tuned[0].auto_model = adapted.merge_and_unload()
worst = {
    "adapter on the base": (unmerged - vectors(merged)).abs().max().item(),
    "merged by PEFT": (vectors(tuned) - vectors(merged)).abs().max().item(),
}
moved = (vectors(merged) - vectors(plain)).abs().max().item()
print(f"{n_adapted} adapters; the training moved vectors by {moved:.1e}; differences: {worst}")
sys.exit(0 if n_adapted and moved > 100 * TOLERANCE and all(value < TOLERANCE for value in worst.values()) else 1)
