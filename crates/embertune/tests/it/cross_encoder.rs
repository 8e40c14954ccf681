//! Cross-encoders against transformers and sentence-transformers (`tests/golden/make_cross_encoders.py`), and what scores do to rows.

use embertune::data::{Example, Row};
use embertune::mine::{Limits, TeacherSettings, score_rows, teacher::score_pairs};
use embertune::model::{CrossEncoder, ScoreActivation};
use embertune::progress::Silent;
use embertune_kernels::cpu::Cpu;
use serde_json::{Map, Value, json};

use crate::golden::{golden, json};

/// Two programs that sum f32 in different orders; logits are of size 1.
const TOLERANCE: f64 = 2e-5;

const MODELS: [&str; 3] = ["tiny-cross-encoder", "tiny-reranker", "tiny-distil-reranker"];

fn load(name: &str, max_len: Option<usize>, activation: Option<ScoreActivation>) -> Option<CrossEncoder<Cpu>> {
    let folder = golden(name)?;
    Some(CrossEncoder::load(Cpu::new(), &folder, max_len, activation, &Silent).unwrap())
}

fn pairs(golden: &Value) -> Vec<(&str, &str)> {
    let text = |value: &'_ Value| -> &'static str { value.as_str().unwrap().to_owned().leak() };
    golden["pairs"].as_array().unwrap().iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

#[test]
fn tokens_and_scores_of_pairs_are_those_of_transformers_and_sentence_transformers() {
    let Some(golden) = json("cross_encoders.json") else { return };
    let pairs = pairs(&golden);
    for name in MODELS {
        let of_model = &golden["models"][name];
        for (length, expected) in of_model["lengths"].as_object().unwrap() {
            let own = load(name, Some(length.parse().unwrap()), None).unwrap();
            assert_eq!(own.activation().to_string(), of_model["activation"], "{name}");
            let tokens = own.tokenize(&pairs).unwrap();
            for (i, tokens) in tokens.iter().enumerate() {
                assert_eq!(json!(tokens.ids), expected["ids"][i], "{name}, {:?}", pairs[i]);
                if name == "tiny-cross-encoder" {
                    assert_eq!(json!(tokens.types), expected["types"][i], "{name}, {:?}", pairs[i]);
                }
            }
            let plain = load(name, Some(length.parse().unwrap()), Some(ScoreActivation::Identity)).unwrap();
            for (model, column) in [(&own, "scores"), (&plain, "logits")] {
                let scores = score_pairs(model, &pairs, 4, &Silent).unwrap();
                for (i, score) in scores.iter().enumerate() {
                    let expected = expected[column][i].as_f64().unwrap();
                    assert!((f64::from(*score) - expected).abs() < TOLERANCE, "{name}: {score} and {expected}");
                }
            }
        }
    }
}

#[test]
fn a_score_does_not_depend_on_the_batch() {
    let Some(golden) = json("cross_encoders.json") else { return };
    let pairs = pairs(&golden);
    let model = load("tiny-cross-encoder", None, None).unwrap();
    let together = score_pairs(&model, &pairs, 64, &Silent).unwrap();
    let alone: Vec<_> = pairs.iter().flat_map(|&pair| score_pairs(&model, &[pair], 1, &Silent).unwrap()).collect();
    let worst = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");
    assert!(score_pairs(&model, &[], 8, &Silent).unwrap().is_empty());
}

fn row(query: &str, pos: &[&str], neg: &[&str]) -> Row {
    let texts = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
    let (positives, negatives) = (texts(pos), texts(neg));
    let ids: Vec<_> = neg.iter().map(|text| json!(text.len())).collect();
    let fields = Map::from_iter([("neg_id".to_string(), json!(ids)), ("pos_id".to_string(), json!([7]))]);
    Row { example: Example { query: query.into(), positives, negatives, line: 1, ..Example::default() }, fields }
}

#[test]
fn negatives_that_break_a_limit_go_with_what_belongs_to_them_and_the_others_keep_their_order() {
    let Some(model) = load("tiny-cross-encoder", None, None) else { return };
    let negatives = ["file", "a longer text", "reading and writing", "a library", "x", "which of them"];
    let of = |settings: TeacherSettings| {
        let scored = score_rows(&model, vec![row("which file?", &["library for"], &negatives)], &settings, &Silent);
        scored.unwrap()
    };
    let all = of(TeacherSettings::default());
    assert_eq!((all.rows[0].example.negatives.len(), all.n_dropped, all.n_negatives), (6, 0, 6));
    let positive = all.scores[0].positives[0];
    let above = all.scores[0].negatives.iter().filter(|score| **score > positive).count();
    assert!((1..6).contains(&above), "the texts were chosen to lie on both sides: {:?}", all.scores);
    assert_eq!(all.n_above, above);

    let limits = Limits { absolute_margin: Some(0.0), ..Limits::default() };
    let below = of(TeacherSettings { limits, ..TeacherSettings::default() });
    let expected: Vec<_> = (0..6).filter(|&i| all.scores[0].negatives[i] <= positive).collect();
    assert_eq!(below.n_dropped, above);
    let Row { example, fields } = &below.rows[0];
    assert_eq!(example.negatives, expected.iter().map(|&i| negatives[i]).collect::<Vec<_>>());
    assert_eq!(below.scores[0].negatives, expected.iter().map(|&i| all.scores[0].negatives[i]).collect::<Vec<_>>());
    assert_eq!(fields["neg_id"], json!(expected.iter().map(|&i| negatives[i].len()).collect::<Vec<_>>()));
    assert_eq!(fields["pos_id"], json!([7]));

    let one = of(TeacherSettings { limits, n_negatives: Some(1), ..TeacherSettings::default() });
    assert_eq!(one.rows[0].example.negatives, [negatives[expected[0]]]);
}

#[test]
fn what_is_no_cross_encoder_with_one_label_is_refused_by_name() {
    let Some(bert) = golden("tiny-bert") else { return };
    let refused = |folder: &std::path::Path, max_len| {
        CrossEncoder::load(Cpu::new(), folder, max_len, None, &Silent).err().unwrap()
    };
    let error = refused(&bert, None);
    assert!(error.to_string().contains("is no cross-encoder"), "{error}");
    assert!(error.hint().unwrap().contains("cross-encoder/ms-marco"));

    let Some(own) = golden("tiny-cross-encoder") else { return };
    assert!(refused(&own, Some(65)).to_string().contains("65 tokens"));
    assert!(refused(&own, Some(4)).to_string().contains("the least is 5"));
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&own).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = std::fs::read_to_string(own.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["id2label"] = json!({"0": "no", "1": "maybe", "2": "yes"});
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    assert!(refused(copy.path(), None).to_string().contains("3 labels"));
}
