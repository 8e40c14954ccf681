#!/usr/bin/env bash
# The sentence-transformers side of the comparison: data, three seeds of both models, metrics before and after.
#
#     PYTHON=venv/bin/python bench/quality/st_all.sh DATA MODELS OUT
#
# DATA: retrieval folder. MODELS: folder filled by scripts/get-models. Writes OUT/minilm, OUT/mpnet (data),
# OUT/st/<model>-<seed> (trained folders), OUT/st/results.json. Keeps what is already there.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 DATA MODELS OUT" >&2; exit 2; }
data=$1 models=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$out/st"

[ -e "$out/mpnet/pool-2000.jsonl" ] || "$python" "$here/make_data.py" "$data" "$out" \
    --model "$models/all-MiniLM-L6-v2" --set minilm:2048:5000 --set mpnet:256:2000

# evaluate NAME POOL FOLDER LABEL
evaluate() {
    [ -e "$out/st/eval-$4.json" ] ||
        "$python" "$here/st_evaluate.py" "$3" "$data/test.jsonl" "$out/$1/pool-$2.jsonl" --out "$out/st/eval-$4.json"
}

# one_model NAME FOLDER BATCH POOL
one_model() {
    for seed in 1 2 3; do
        [ -e "$out/st/$1-$seed/st_train.json" ] ||
            "$python" "$here/st_train.py" "$models/$2" "$out/$1/train-$seed.jsonl" "$out/st/$1-$seed" --batch "$3" --lr 2e-5
    done
    evaluate "$1" "$4" "$models/$2" "$1-base"
    for seed in 1 2 3; do
        evaluate "$1" "$4" "$out/st/$1-$seed" "$1-$seed"
    done
}

one_model minilm all-MiniLM-L6-v2 32 5000
one_model mpnet all-mpnet-base-v2 16 2000

"$python" - "$out/st" <<'END'
import json, pathlib, sys
st = pathlib.Path(sys.argv[1])
results = {}
for path in sorted(st.glob("eval-*.json")):
    label = path.stem.removeprefix("eval-")
    results[label] = json.loads(path.read_text())
    run = st / label / "st_train.json"
    if run.exists():
        results[label]["train"] = json.loads(run.read_text())
(st / "results.json").write_text(json.dumps(results, indent=2) + "\n")
END
