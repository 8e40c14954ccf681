#!/usr/bin/env bash
# The share of planted false negatives that each rule mines: planted.sh DATA MODEL OUT [EMBERTUNE]
# DATA: a folder with train.jsonl and corpus.jsonl; MODEL: a model folder. Vectors are made once and kept in OUT.
set -euo pipefail
data=$1 model=$2 out=$3 embertune=${4:-target/release/embertune}
here=$(dirname "$0")
[ -f "$out/pool.jsonl" ] || python3 "$here/plant.py" make "$data" "$out"
embed() {
    [ -f "$out/$1.npy" ] || "$embertune" embed --model_name_or_path "$model" --role "$2" --input_file "$out/$1.jsonl" --output_file "$out/$1.npy"
}
embed pool passage
embed queries query
mine() {
    "$embertune" mine --input_file "$out/train.jsonl" --candidate_pool "$out/pool.jsonl" --query_vectors "$out/queries.npy" \
        --passage_vectors "$out/pool.npy" --output_file "$out/$1.jsonl" "${@:2}"
}
mine original-0-10 --range_for_sampling 0-10 --negative_number 7
mine original-2-10 --range_for_sampling 2-10 --negative_number 7
mine original-10-210 --negative_number 7
mine sentence-transformers --preset sentence-transformers --negative_number 7
mine relative-margin --preset sentence-transformers --negative_number 7 --relative_margin 0.05
mine near-duplicates --preset sentence-transformers --negative_number 7 --exclude_near_duplicates
mine nv-retriever --preset nv-retriever
python3 "$here/plant.py" count "$out" "$out"/{original-0-10,original-2-10,original-10-210,sentence-transformers,relative-margin,near-duplicates,nv-retriever}.jsonl
