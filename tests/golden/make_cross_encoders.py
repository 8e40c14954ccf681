"""Makes tiny cross-encoders and their scores by PyTorch: tiny-cross-encoder/ (BERT), tiny-reranker/ (XLM-RoBERTa), tiny-distil-reranker/
(DistilBERT), cross_encoders.json.

    python make_cross_encoders.py

Made with the versions in the file, on a CPU in float32. Needs no network; the tokenizers are those of tiny-distilbert/ and
tiny-xlm-roberta/. Weights are random, seeded: LayerNorm 1 +- 0.2, biases 0.1, the rest 0.3.

cross_encoders.json: "pairs"; for each model "activation", what its folder says of it; for each maximum length "ids" and "types" as
transformers' tokenizer makes them (longest_first), "logits" of transformers, and "scores" of sentence-transformers' CrossEncoder.
"""
import json, os, shutil
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
import safetensors.torch
import sentence_transformers, tokenizers, torch, transformers

HERE = Path(__file__).resolve().parent
WIDTH, INNER, LAYERS, HEADS, LENGTHS = 16, 24, 2, 2, (64, 24)
LONG = "library for reading and writing of files, " * 6
PAIRS = [
    ("hello world", "a text"), ("a", ""), ("", "a"), ("which package reads files?", "library for reading files"),
    ("which package reads files?", LONG), (LONG, "library"), (LONG, LONG + "and more"), ("[SEP] literal </s>", "[CLS] <s> special"),
    ("Hello World, don't!  It's 3.14159", "naïve café, Zürich"), ("东京是日本的首都。", "Привет мир"),
]
torch.set_num_threads(1)


def seeded(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0.0, 0.1 if p.dim() == 1 else 0.3, generator=generator)
        for m in module.modules():
            if isinstance(m, torch.nn.LayerNorm):
                m.weight.normal_(1.0, 0.2, generator=generator)
    return module.eval()


def folder_of(name, tokenizer, config, model_class, seed, activation):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE / tokenizer / file, folder / file)
    if name == "tiny-cross-encoder":
        said = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "BertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=1) + "\n")
    model = seeded(model_class(config), seed)
    safetensors.torch.save_file({k: v.clone() for k, v in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    unpublished = {"dtype", "_name_or_path", "chunk_size_feed_forward", "is_encoder_decoder", "output_attentions", "output_hidden_states",
                   "return_dict", "problem_type", "tie_word_embeddings", "transformers_version"}
    values = {k: v for k, v in sorted(config.to_dict().items()) if k not in unpublished and v is not None}
    values |= {"architectures": [model_class.__name__]} | activation
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def main():
    vocab = lambda name: tokenizers.Tokenizer.from_file(str(HERE / name / "tokenizer.json")).get_vocab_size()
    bert = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, num_labels=1)
    distil = dict(dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INNER, num_labels=1, max_position_embeddings=64)
    t = transformers
    models = [
        ("tiny-cross-encoder", "tiny-distilbert", t.BertConfig(vocab_size=vocab("tiny-distilbert"), max_position_embeddings=64, **bert),
         t.BertForSequenceClassification, {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
        ("tiny-reranker", "tiny-xlm-roberta", t.XLMRobertaConfig(vocab_size=vocab("tiny-xlm-roberta"), max_position_embeddings=66, type_vocab_size=1,
         layer_norm_eps=1e-5, bos_token_id=0, pad_token_id=1, eos_token_id=2, **bert), t.XLMRobertaForSequenceClassification, {}),
        ("tiny-distil-reranker", "tiny-distilbert", t.DistilBertConfig(vocab_size=vocab("tiny-distilbert"), **distil),
         t.DistilBertForSequenceClassification, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
    ]
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, sentence_transformers)}
    out = {"versions": versions, "pairs": PAIRS, "models": {}}
    for seed, (name, tokenizer, config, model_class, activation) in enumerate(models, 1):
        folder = folder_of(name, tokenizer, config, model_class, seed, activation)
        model = t.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        tokens = t.AutoTokenizer.from_pretrained(folder)
        of_model = out["models"][name] = {"activation": "identity" if activation else "sigmoid", "lengths": {}}
        for length in LENGTHS:
            ids, types, logits = [], [], []
            for first, second in PAIRS:
                batch = tokens([first], [second], truncation="longest_first", max_length=length, return_tensors="pt", return_token_type_ids=True)
                ids.append(batch["input_ids"][0].tolist())
                types.append(batch["token_type_ids"][0].tolist())
                if model_class is not t.BertForSequenceClassification:
                    batch.pop("token_type_ids")
                with torch.no_grad():
                    logits.append(model(**batch).logits[0, 0].item())
            library = sentence_transformers.CrossEncoder(str(folder), device="cpu", max_length=length)
            scores = library.predict(PAIRS, batch_size=4, show_progress_bar=False).tolist()
            of_model["lengths"][str(length)] = {"ids": ids, "types": types, "logits": logits, "scores": scores}
            expected = logits if activation else torch.tensor(logits).sigmoid().tolist()
            print(name, length, [round(x, 3) for x in logits], max(abs(a - b) for a, b in zip(scores, expected)))
    (HERE / "cross_encoders.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
