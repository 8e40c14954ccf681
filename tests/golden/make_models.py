"""Makes tiny RoBERTa, XLM-RoBERTa and DistilBERT checkpoints and their values by PyTorch: tiny-roberta/, tiny-xlm-roberta/,
tiny-distilbert/, pickles/, models.json, models.safetensors.

    python make_models.py

Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, sentence-transformers 6.2.0, sentencepiece 0.2.3 (with protobuf), on a CPU
in float32, dropout off. Needs no network; the same numbers each time on the same machine (two files of pickles/ hold addresses, too).

models.json: versions, texts, token ids (MODEL/lenL), and under "gradients" a batch with its loss and gradient norm (MODEL/POOLING).
models.safetensors, all float32, N texts in the order of the json:
    MODEL/lenL/POOLING[/norm]    [N, d] pooled by cls or mean, plain or of length 1
    MODEL/len16/hidden/I/K       [T, d] hidden state K (0: embeddings after LayerNorm, last: output) of text I
    MODEL/POOLING/TENSOR         gradient of a parameter: InfoNCE over in-batch passages, cosine / 0.02, group layout
pickles/: what torch.save writes of tensors of many types and layouts, and the same as safetensors; and the older format.
"""
import collections, json, os, shutil
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
import safetensors.torch
import sentence_transformers, sentencepiece, tokenizers, torch, transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy, normalize

HERE = Path(__file__).resolve().parent
ROWS = [json.loads(line) for line in (HERE / "../../examples/debian/train.jsonl").read_text(encoding="utf-8").splitlines()]
WIDTH, INNER, LAYERS, HEADS, LENGTHS, TEMPERATURE, GROUP = 32, 48, 2, 4, (64, 16), 0.02, 2
Q_LEN, P_LEN = 32, 64
torch.set_num_threads(1)

TEXTS = [
    "", "a", "hello world", "Hello World, don't!  It's 3.14159", "  repeated    spaces \t and\ttabs   ", "line one\nline two\r\nline three\n\n",
    "naïve café, Zürich, Ångström", "decomposed: cafe\u0301 A\u030angstro\u0308m", "东京是日本的首都。 한국어 カタカナ", "I ❤️ Rust 🦀🚀 ok?",
    "Привет мир, مرحبا بالعالم", "[CLS] literal [SEP] special [PAD] tokens [MASK] of [UNK]", "<s> literal </s> special <pad> tokens <mask> of <unk>",
    "pad <pad><pad> and [PAD][PAD] in a row", "ＦＵＬＬ\u3000ＷＩＤＴＨ ﬁne ½", "zero\u200bwidth \xa0nbsp soft\xadhyphen", "     ", "\n", "!!! ??? ...",
    "▁lower▁one eighth▁blocks ▁", "x" * 90, "library for reading and writing of files, " * 12,
]
HIDDEN_OF = (3, 13)
BATCH = {"q": [row["query"] for row in ROWS[0:20:5]], "p": [ROWS[i + k]["pos"][0] for i in range(0, 20, 5) for k in range(GROUP)]}
BATCH["p"][1] += " <pad> [PAD] literal"  # the padding row gets no gradient, even from tokens that are attended to


def corpus():
    return [text for row in ROWS[:400] for text in (row["query"], row["pos"][0])] + TEXTS


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def special(tokens):
    return [AddedToken(t, special=True, normalized=False, lstrip=t == "<mask>") for t in tokens]


def roberta_tokenizer():
    """Byte-level BPE, as in roberta-base: <s> <pad> </s> <unk> first, <mask> last."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=339, special_tokens=first, initial_alphabet=alphabet, show_progress=False))
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(special(["<mask>"]))
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return bpe


def xlm_roberta_tokenizer(folder):
    """Unigram with a character map, made by sentencepiece and converted as transformers converts XLM-RoBERTa."""
    rules = {0x09: " ", 0x0A: " ", 0x0D: " ", 0x3000: " ", 0xA0: " ", 0x200B: "", 0xAD: "", 0xFB01: "fi", 0xBD: "1/2"}
    rules |= {0xFF21 + i: chr(0x41 + i) for i in range(26)}
    lines = ["%X\t%s" % (k, " ".join("%X" % ord(c) for c in v)) for k, v in rules.items()] + ["65 301\tE9", "41 30A\tC5", "6F 308\tF6"]
    (folder / "rules.tsv").write_text("\n".join(lines) + "\n")
    (folder / "corpus.txt").write_text("\n".join(t.replace("\n", " ") for t in corpus() if t.strip()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=300, model_type="unigram",
        normalization_rule_tsv=str(folder / "rules.tsv"), character_coverage=0.995, num_threads=1, minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "sentencepiece.bpe.model").read_bytes())
    for name in ("rules.tsv", "corpus.txt", "sentencepiece.bpe.vocab", "sentencepiece.bpe.model"):
        (folder / name).unlink()
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece.piece, piece.score) for piece in proto.pieces[3:]] + [("<mask>", 0.0)]
    unigram = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    unigram.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
    unigram.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")])
    unigram.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    unigram.add_special_tokens(special(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
    unigram.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return unigram


def distilbert_tokenizer():
    """WordPiece, lower case, as in distilbert-base-uncased. Frequent letters and words instead of a trained vocabulary: the trainer
    gives another one each time."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = collections.Counter(word for text in corpus() for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = collections.Counter(letter for word, n in words.items() for letter in word * n)
    frequent = lambda counts, n: [key for key, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]]
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(frequent(letters, 60))
    vocab = list(dict.fromkeys(first + letters + ["##" + letter for letter in letters] + frequent(words, 300)))[:300]
    piece = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="[UNK]"))
    piece.normalizer, piece.pre_tokenizer = normalizer, splitter
    piece.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in first])
    piece.decoder = decoders.WordPiece()
    piece.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return piece


def seeded(module, seed):
    """Weights of a spread that makes every term matter: LayerNorm 1 +- 0.2, biases 0.1, the rest 0.3."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            is_norm_weight = p.dim() == 1 and name.endswith("weight")
            p.normal_(1.0 if is_norm_weight else 0.0, 0.2 if is_norm_weight else 0.1 if p.dim() == 1 else 0.3, generator=generator)
    return module.eval()


def checkpoint(name):
    """-> folder of the model. Spelling and files as the published models of the kind have them."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    roberta = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, layer_norm_eps=1e-5,
                   max_position_embeddings=66, type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2)
    config_of_tokenizer = {"model_max_length": 512, "clean_up_tokenization_spaces": True}
    pooling = "mean"
    marks = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>",
             "mask_token": {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False, "__type": "AddedToken"}}
    if name == "tiny-roberta":
        tokenizer = roberta_tokenizer()
        config_of_tokenizer |= marks | {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "trim_offsets": True}
        config = transformers.RobertaConfig(vocab_size=tokenizer.get_vocab_size(), **roberta)
        weights = seeded(transformers.RobertaModel(config), 1).state_dict()
        safetensors.torch.save_file(weights | {"embeddings.position_ids": torch.arange(66).unsqueeze(0)}, folder / "model.safetensors", {"format": "pt"})
    elif name == "tiny-xlm-roberta":
        # As BAAI/bge-m3 is published: pickled weights only, the first token is the vector.
        tokenizer = xlm_roberta_tokenizer(folder)
        config_of_tokenizer |= marks | {"tokenizer_class": "XLMRobertaTokenizer"}
        config = transformers.XLMRobertaConfig(vocab_size=tokenizer.get_vocab_size(), **roberta)
        torch.save(seeded(transformers.XLMRobertaModel(config), 2).state_dict(), folder / "pytorch_model.bin")
        pooling = "cls"
    else:
        # As distilbert-base-uncased is published: with a prefix and the heads of its training.
        tokenizer = distilbert_tokenizer()
        config_of_tokenizer |= {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True, "cls_token": "[CLS]", "sep_token": "[SEP]",
                                "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "strip_accents": None, "tokenize_chinese_chars": True}
        config = transformers.DistilBertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, n_layers=LAYERS, n_heads=HEADS,
                                               dim=WIDTH, hidden_dim=INNER)
        weights = {f"distilbert.{k}": v for k, v in seeded(transformers.DistilBertModel(config), 3).state_dict().items()}
        weights |= {"vocab_transform.bias": torch.zeros(WIDTH), "vocab_layer_norm.weight": torch.ones(WIDTH), "vocab_projector.bias": torch.zeros(config.vocab_size)}
        safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = config.to_dict() | {"torch_dtype": "float32", "transformers_version": "4.41.2"}
    unpublished = {"dtype", "_name_or_path", "architectures", "chunk_size_feed_forward", "is_encoder_decoder", "output_attentions", "output_hidden_states",
                   "return_dict", "id2label", "label2id", "problem_type", "tie_word_embeddings", "eos_token_id" if name == "tiny-distilbert" else ""}
    write_json(folder / "config.json", {k: v for k, v in sorted(config.items()) if k not in unpublished and v is not None})
    write_json(folder / "tokenizer_config.json", config_of_tokenizer)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")]
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(kinds)])
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean",
                                                  "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.7.0", "transformers": "4.41.2", "pytorch": "2.3.1"}})
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder, pooling


def tokens(tokenizer, folder, texts, length):
    batch = tokenizer(texts, padding=True, truncation="longest_first", max_length=length, return_tensors="pt")
    ids = [row[: int(mask.sum())].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"])]
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.enable_truncation(length)
    for text, expected, encoded in zip(texts, ids, plain.encode_batch(texts)):
        assert encoded.ids == expected, (folder.name, text, encoded.ids, expected)
    return {k: v for k, v in batch.items() if k != "token_type_ids"}, ids


def pool(hidden, mask, pooling):
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)


def loss_of(model, q, p, pooling):
    q, p = (normalize(pool(model(**side).last_hidden_state, side["attention_mask"], pooling)) for side in (q, p))
    return cross_entropy(q @ p.T / TEMPERATURE, torch.arange(len(q)) * GROUP)


def pickles(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(5, 6, generator=generator)
    # torch.save keeps strides, offsets and that storages are shared; safetensors has none of them.
    tensors = collections.OrderedDict(
        plain=base, transposed=base.T, part=base[1:4, 2:5], steps=base[::2, ::3], column=base[:, 4], scalar=base[3, 3], empty=base[:0],
        cube=torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1), parameter=torch.nn.Parameter(base + 1),
        half=base.half(), bfloat=base.bfloat16()[1:], long=torch.arange(7).unsqueeze(0), double=base.double(), flags=base > 0,
        bytes=torch.arange(4, dtype=torch.uint8), unit=base[:1].T.expand(6, 1))
    torch.save(tensors, folder / "tensors.bin")
    torch.save({"plain": base}, folder / "older.bin", _use_new_zipfile_serialization=False)
    torch.save({"model": tensors, "step": 3}, folder / "nested.bin")
    torch.save(torch.nn.Linear(2, 2), folder / "module.bin")
    safetensors.torch.save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, folder / "tensors.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def main():
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, sentence_transformers, sentencepiece)}
    out = {"versions": versions, "texts": TEXTS, "ids": {}, "gradients": {"temperature": TEMPERATURE, "q_len": Q_LEN, "p_len": P_LEN, "texts": BATCH, "ids": {}, "cases": {}}}
    values = {}
    for name in ("tiny-roberta", "tiny-xlm-roberta", "tiny-distilbert"):
        folder, own_pooling = checkpoint(name)
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for length in LENGTHS:
            batch, ids = tokens(tokenizer, folder, TEXTS, length)
            out["ids"][f"{name}/len{length}"] = ids
            with torch.no_grad():
                states = model(**batch, output_hidden_states=True).hidden_states
            for pooling in ("cls", "mean"):
                x = pool(states[-1], batch["attention_mask"], pooling)
                values |= {f"{name}/len{length}/{pooling}": x, f"{name}/len{length}/{pooling}/norm": normalize(x)}
            if length == min(LENGTHS):
                values |= {f"{name}/len{length}/hidden/{i}/{k}": h[i, : len(ids[i])] for i in HIDDEN_OF for k, h in enumerate(states)}
        library = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        difference = (torch.from_numpy(library.encode(TEXTS)) - values[f"{name}/len64/{own_pooling}/norm"]).abs().max()
        assert library.max_seq_length == 64 and difference < 5e-6, (library.max_seq_length, difference)

        (q, q_ids), (p, p_ids) = (tokens(tokenizer, folder, BATCH[k], n) for k, n in (("q", Q_LEN), ("p", P_LEN)))
        out["gradients"]["ids"][name] = {"q": q_ids, "p": p_ids}
        loss = loss_of(model, q, p, own_pooling)
        loss.backward()
        grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        norm = torch.stack([g.double().norm() for g in grads.values()]).norm()
        out["gradients"]["cases"][f"{name}/{own_pooling}"] = {"loss": loss.item(), "grad_norm": norm.item()}
        values |= {f"{name}/{own_pooling}/{k}": g for k, g in grads.items()}
        print(name, loss.item(), norm.item(), len(grads), sum(p.numel() for p in model.parameters()))
    pickles(HERE / "pickles")
    write_json(HERE / "models.json", out)
    safetensors.torch.save_file({k: v.detach().contiguous().clone() for k, v in values.items()}, HERE / "models.safetensors")
    (HERE / "models.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
