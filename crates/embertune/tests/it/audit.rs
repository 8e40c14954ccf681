//! Audits: each planted fault is found, and nothing else; repairs leave nothing of what they claim to repair.

use std::collections::BTreeSet;

use embertune::audit::{Audit, AuditSettings, Input, Kind, Severity, Source, Unit, audit, list_path, write_repaired};
use embertune::data::{Example, Row, Scores, read_examples, read_rows};
use embertune::embed::embed;
use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune::text::Role;
use embertune::train::TrainSettings;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::dropout::splitmix64;
use serde_json::{Map, Value, json};

use crate::golden::{data, golden};

/// Rows, test rows, and a pool with all their passages.
struct Set {
    data: Vec<Example>,
    test: Vec<Example>,
    pool: Vec<String>,
}

/// Made-up words of six letters: no two texts of them are near to each other.
fn words(seed: u64, n: u64) -> String {
    let letter = |bits: u64| char::from(b'a' + (bits % 26) as u8);
    let word = |key: u64| (0..6).map(|i| letter(splitmix64(key) >> (8 * i))).collect::<String>();
    (0..n).map(|i| word(seed * 1000 + i)).collect::<Vec<_>>().join(" ")
}

impl Set {
    /// Rows of a query, a positive and two negatives; nothing is wrong with them.
    fn clean() -> Set {
        let row = |i: u64| Example {
            query: words(10 * i, 6),
            positives: vec![words(10 * i + 1, 12)],
            negatives: vec![words(10 * i + 2, 12), words(10 * i + 3, 12)],
            scores: Scores::None,
            line: i as usize + 1,
        };
        let (data, test): (Vec<_>, Vec<_>) = ((0..60).map(row).collect(), (60..70).map(row).collect());
        let mut set = Set { data, test, pool: Vec::new() };
        set.fill_pool();
        set
    }

    fn fill_pool(&mut self) {
        let rows = self.data.iter().chain(&self.test);
        self.pool = rows.flat_map(|row| row.positives.iter().chain(&row.negatives)).cloned().collect();
    }

    fn audit(&self) -> Audit {
        let data = Source { name: "train.jsonl", examples: &self.data };
        let test = Some(Source { name: "test.jsonl", examples: &self.test });
        let input = Input { data, test, pool: Some(&self.pool) };
        audit(&input, None::<&EmbeddingModel<Cpu>>, &AuditSettings::default(), &Silent).unwrap()
    }

    fn push(&mut self, query: &str, positive: &str) {
        let line = self.data.len() + 1;
        self.data.push(Example { query: query.into(), positives: vec![positive.into()], line, ..Example::default() });
    }
}

fn kinds(audit: &Audit) -> BTreeSet<String> {
    audit.findings.iter().map(|finding| format!("{:?}", finding.kind)).collect()
}

/// A fault, what it has to be found as, and where first.
type Fault = (fn(&mut Set), &'static [Kind], &'static str);

const FAULTS: [Fault; 22] = [
    (
        |set| set.test[4].query = format!("{}!", set.data[3].query.to_uppercase()),
        &[Kind::LeakedQueries],
        "test.jsonl:65",
    ),
    (|set| set.test[4].query = format!("{}s", set.data[3].query), &[Kind::NearLeakedQueries], "test.jsonl:65"),
    (|set| set.test[4].positives = set.data[3].positives.clone(), &[Kind::SharedAnswers], "test.jsonl:65"),
    (|set| set.data[3].negatives[1] = set.data[3].positives[0].clone(), &[Kind::ContradictionsInRow], "train.jsonl:4"),
    (
        |set| {
            let (query, negative) = (set.data[3].query.clone(), set.data[3].positives[0].clone());
            set.push(&query, &words(9000, 12));
            set.data[60].negatives = vec![negative];
        },
        &[Kind::ContradictionsAcrossRows, Kind::RepeatedQueries],
        "train.jsonl:61",
    ),
    (|set| set.data[3].positives[0] = set.data[3].query.clone(), &[Kind::QueryIsPositive], "train.jsonl:4"),
    (|set| set.data[3].negatives[0] = set.data[3].query.clone(), &[Kind::QueryIsNegative], "train.jsonl:4"),
    (
        |set| {
            let mut words: Vec<_> = set.data[3].positives[0].split(' ').collect();
            words.reverse();
            let turned = words.join(" ");
            set.data[3].negatives[0] = turned;
        },
        &[Kind::NearNegatives],
        "train.jsonl:4",
    ),
    (|set| set.data.push(Example { line: 61, ..set.data[3].clone() }), &[Kind::RepeatedRows], "train.jsonl:61"),
    (
        |set| {
            let query = set.data[3].query.to_uppercase();
            set.push(&query, &words(9000, 12));
        },
        &[Kind::RepeatedQueries],
        "train.jsonl:61",
    ),
    (
        |set| {
            let query = format!("{}s", set.data[3].query);
            set.push(&query, &words(9000, 12));
        },
        &[Kind::NearQueries],
        "train.jsonl:61",
    ),
    (|set| set.data[3].negatives[1] = set.data[3].negatives[0].clone(), &[Kind::RepeatedInRow], "train.jsonl:4"),
    (|set| set.data[3].negatives[1] = format!("{}s", set.data[2].negatives[1]), &[], ""),
    (
        |set| set.data[3].negatives[1] = format!("{} x", set.data[2].negatives[1]),
        &[Kind::NearPassages],
        "train.jsonl:4",
    ),
    (|set| set.data[3].positives = set.data[2].positives.clone(), &[Kind::SharedPositives], "train.jsonl:3"),
    (
        |set| set.data[3].positives[0] = set.data[2].positives[0].rsplit_once(' ').unwrap().0.to_string(),
        &[Kind::InBatchFalseNegatives, Kind::NearPassages],
        "train.jsonl:3",
    ),
    (|set| set.data[3].query = words(9000, 33), &[Kind::TruncatedQueries], "train.jsonl:4"),
    (|set| set.data[3].negatives[0] = words(9000, 129), &[Kind::TruncatedPassages], "train.jsonl:4"),
    (|set| set.data[3].query = "как разделить файл".into(), &[Kind::CrossScript], "train.jsonl:4"),
    (|set| set.data[3].query = "файл abc".into(), &[], ""),
    (|set| set.data[3].query = "42".into(), &[], ""),
    (|set| set.data[3].positives.push(words(9000, 12)), &[], ""),
];

#[test]
fn each_planted_fault_is_found_and_nothing_else() {
    assert_eq!(kinds(&Set::clean().audit()), BTreeSet::new());
    for (plant, expected, place) in FAULTS {
        let mut set = Set::clean();
        plant(&mut set);
        set.fill_pool();
        let audit = set.audit();
        let named = expected.iter().map(|kind| format!("{kind:?}")).collect();
        assert_eq!(kinds(&audit), named, "{:#?}", audit.findings);
        for kind in expected.iter().take(1) {
            let finding = audit.findings.iter().find(|finding| finding.kind == *kind).unwrap();
            assert_eq!(finding.examples[0].places[0], place, "{kind:?}");
            assert!(finding.n >= 1 && finding.n <= finding.of, "{finding:?}");
        }
    }
    let mut set = Set::clean();
    set.pool.retain(|text| *text != set.data[3].positives[0]);
    assert_eq!(kinds(&set.audit()), BTreeSet::from(["MissingFromPool".to_string()]));
}

#[test]
fn all_faults_together_are_found_in_the_order_of_their_severity_with_any_number_of_threads() {
    let set = broken();
    let [one, three] = [1, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| set.audit()));
    assert_eq!(one, three);
    let severities: Vec<_> = one.findings.iter().map(|finding| finding.severity).collect();
    assert!(severities.is_sorted_by(|a, b| a >= b), "{severities:?}");
    assert_eq!((severities[0], one.n(Severity::Error)), (Severity::Error, 3));
}

/// All faults in one set, each in rows of its own.
fn broken() -> Set {
    let mut set = Set::clean();
    for (at, (plant, ..)) in FAULTS.into_iter().enumerate() {
        let mut part = Set::clean();
        plant(&mut part);
        // Rows 0 to 3 and what was added are where the fault is.
        let rows = part.data.into_iter().enumerate().filter(|(i, _)| [2, 3].contains(i) || *i >= 60);
        let changed =
            |text: &mut String| *text = text.split(' ').map(|word| format!("{at}{word}")).collect::<Vec<_>>().join(" ");
        for (_, mut row) in rows {
            changed(&mut row.query);
            row.positives.iter_mut().chain(&mut row.negatives).for_each(changed);
            row.line = set.data.len() + 1;
            set.data.push(row);
        }
        let mut test = part.test[4].clone();
        changed(&mut test.query);
        test.positives.iter_mut().for_each(changed);
        test.line = set.test.len() + 61;
        set.test.push(test);
    }
    set.fill_pool();
    set
}

#[test]
fn what_was_repaired_audits_clean_of_what_repairs_claim() {
    let set = broken();
    let before = set.audit();
    let claimed = |audit: &Audit| -> BTreeSet<String> {
        audit.findings.iter().filter(|f| f.repair.is_some()).map(|f| format!("{:?}", f.kind)).collect()
    };
    let all: BTreeSet<_> = Kind::ALL.iter().filter(|kind| kind.repair().is_some()).map(|k| format!("{k:?}")).collect();
    assert_eq!(claimed(&before), all, "every kind that repairs claim is planted");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clean.jsonl");
    let rows: Vec<_> = set.data.iter().map(|row| Row { example: row.clone(), fields: fields(row) }).collect();
    write_repaired(&path, "train.jsonl", &rows, &before.repairs).unwrap();
    let repaired = read_rows(&path, &Silent).unwrap();
    for row in &repaired {
        let scores: Vec<_> = row.example.negatives.iter().map(|text| Value::from(text.len())).collect();
        assert_eq!(row.fields["neg_scores"], Value::from(scores), "scores go with their texts");
        assert_eq!(row.fields["source"], "test");
    }
    let repaired: Vec<_> = repaired.into_iter().map(|row| row.example).collect();
    let n_rows = repaired.len();
    let after = Set { data: repaired, test: set.test, pool: set.pool }.audit();
    assert_eq!(claimed(&after), BTreeSet::new());
    assert_eq!(after.repairs, []);

    let list = std::fs::read_to_string(list_path(&path)).unwrap();
    let list: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(list.len(), before.repairs.len());
    assert_eq!(list.iter().filter(|line| line["dropped"] == "row").count(), set.data.len() - n_rows);
    let copy = list.iter().find(|line| line["reason"] == "repeated_rows").unwrap();
    assert!(copy["place"].as_str().unwrap().starts_with("train.jsonl:"), "{copy}");
}

fn fields(row: &Example) -> Map<String, Value> {
    let scores: Vec<_> = row.negatives.iter().map(String::len).collect();
    let fields =
        json!({"query": row.query, "pos": row.positives, "neg": row.negatives, "neg_scores": scores, "source": "test"});
    fields.as_object().unwrap().clone()
}

#[test]
fn expected_false_negatives_are_those_of_all_batches() {
    // Rows 0 and 1 share a positive, the positive of row 2 is nearly that: of the six batches of two rows, three hold two right
    // answers too many, one each; those of rows 0 and 1 are masked.
    let mut set = Set::clean();
    set.data.truncate(4);
    set.data[1].positives = set.data[0].positives.clone();
    set.data[2].positives[0] = set.data[0].positives[0].rsplit_once(' ').unwrap().0.to_string();
    set.data.iter_mut().for_each(|row| row.negatives.clear());
    let rows = Source { name: "d", examples: &set.data };
    let settings = AuditSettings { batch_size: 2, group_size: 1, ..AuditSettings::default() };
    let found = |settings: &AuditSettings| {
        let input = Input { data: rows, test: None, pool: None };
        audit(&input, None::<&EmbeddingModel<Cpu>>, settings, &Silent).unwrap().facts.batch
    };
    let risk = found(&settings).unwrap();
    assert!((risk.expected - 1.0).abs() < 1e-9 && (risk.expected_unmasked - 2.0 / 3.0).abs() < 1e-9, "{risk:?}");
    assert_eq!(risk.n_passages, 2.0);
    // A batch of all rows holds them all: two for each of three rows.
    let risk = found(&AuditSettings { batch_size: 100, ..settings.clone() }).unwrap();
    assert!((risk.expected - 6.0).abs() < 1e-9 && (risk.expected_unmasked - 4.0).abs() < 1e-9, "{risk:?}");
    assert_eq!(found(&AuditSettings { use_inbatch_neg: false, ..settings.clone() }), None);
    assert_eq!(found(&AuditSettings { batch_size: 1, ..settings }), None);
}

#[test]
fn a_model_counts_tokens_and_what_it_ranks_wrong_as_brute_force_does() {
    let Some(folder) = golden("tiny-bert") else { return };
    let model = EmbeddingModel::load(Cpu::new(), &folder, &Overrides::default(), &Silent).unwrap();
    let set = Set::clean();
    let data = Source { name: "train.jsonl", examples: &set.data };
    let input = Input { data, test: Some(Source { name: "t", examples: &set.test }), pool: Some(&set.pool) };
    let settings = AuditSettings { query_max_len: 8, ..AuditSettings::default() };
    let found = audit(&input, Some(&model), &settings, &Silent).unwrap();
    let n = |kind| found.findings.iter().find(|finding| finding.kind == kind).map_or(0, |finding| finding.n);

    let vectors = |texts: Vec<&str>, role| embed(&model, &texts, role, None, 64, &Silent).unwrap();
    let queries = vectors(set.data.iter().map(|row| row.query.as_str()).collect(), Role::Query);
    let pool = vectors(set.pool.iter().map(String::as_str).collect(), Role::Passage);
    let score = |i: usize, j: usize| queries.row(i).iter().zip(pool.row(j)).map(|(a, b)| a * b).sum::<f32>();
    // The pool is the rows one after the other, three passages each.
    let better = |i: usize| (0..pool.n_rows()).filter(|&j| score(i, j) > score(i, 3 * i)).count();
    assert_eq!(n(Kind::BeyondRank100), (0..60).filter(|&i| better(i) >= 100).count());
    let above = (0..60).flat_map(|i| [score(i, 3 * i + 1), score(i, 3 * i + 2)].map(|s| s > score(i, 3 * i)));
    assert_eq!(n(Kind::NegativesAbovePositive), above.filter(|&above| above).count());
    let mrr = (0..60).map(better).filter(|&n| n < 10).map(|n| 1.0 / (n + 1) as f64).sum::<f64>() / 60.0;
    let of_model = &found.facts.baselines[2];
    assert_eq!((found.facts.baselines.len(), of_model.n_queries, of_model.n_candidates), (4, 60, 210));
    assert!((of_model.mrr_at_10 - mrr).abs() < 1e-9, "{} {mrr}", of_model.mrr_at_10);

    let texts: Vec<_> = set.data.iter().map(|row| row.query.as_str()).collect();
    let tokens = model.tokenize(&texts, Role::Query, None).unwrap();
    let lengths = &found.facts.query_lengths;
    assert_eq!((lengths.unit, lengths.limit, lengths.n), (Unit::Tokens, 8, 60));
    assert_eq!(n(Kind::TruncatedQueries), tokens.iter().filter(|tokens| tokens.ids.len() > 8).count());
    assert_eq!(lengths.histogram.iter().sum::<usize>(), 60);
}

#[test]
fn scored_pairs_are_compared_as_pairs() {
    let pair = |a: &str, b: &str, score: f32, line: usize| Example {
        query: a.into(),
        positives: vec![b.into()],
        scores: Scores::Pair(score),
        line,
        ..Example::default()
    };
    let (a, b, c) = (&*words(1, 8), &*words(2, 8), &*words(3, 8));
    // Equal texts and a text in several pairs are what such data is made of.
    let data = [pair(a, a, 5.0, 1), pair(a, b, 1.0, 2), pair(a, c, 2.0, 3), pair(a, b, 1.0, 4), pair(a, b, 3.0, 5)];
    let test = [pair(c, a, 2.0, 1), pair(b, c, 0.0, 2)];
    let source = |examples| Source { name: "f", examples };
    let input = Input { data: source(&data), test: Some(source(&test)), pool: None };
    let found = audit(&input, None::<&EmbeddingModel<Cpu>>, &AuditSettings::default(), &Silent).unwrap();
    assert_eq!(kinds(&found), BTreeSet::from(["LeakedQueries", "RepeatedRows"].map(String::from)));
    assert!(found.findings.iter().all(|finding| finding.n == 1), "{:?}", found.findings);
    assert_eq!((found.facts.batch, found.facts.baselines.len()), (None, 0));
}

#[test]
fn the_plan_is_that_of_training() {
    let (audit, train) = (AuditSettings::default(), TrainSettings::default());
    assert_eq!(
        (audit.query_max_len, audit.passage_max_len, audit.batch_size, audit.group_size, audit.use_inbatch_neg),
        (
            train.query_max_len,
            train.passage_max_len,
            train.per_device_train_batch_size,
            train.train_group_size,
            train.use_inbatch_neg
        )
    );
}

#[test]
fn the_original_recipe_evaluates_on_its_training_rows() {
    let Some(folder) = data("intel-example") else { return };
    let rows = read_examples(&folder.join("train.jsonl"), &Silent).unwrap();
    let source = Source { name: "train.jsonl", examples: &rows };
    let input = Input { data: source, test: Some(source), pool: None };
    let found = audit(&input, None::<&EmbeddingModel<Cpu>>, &AuditSettings::default(), &Silent).unwrap();
    let leak = &found.findings[0];
    assert_eq!((leak.kind, leak.severity, leak.n, leak.of), (Kind::LeakedQueries, Severity::Error, 6, 6));
    assert!(leak.detail.as_ref().unwrap().contains("an evaluation on training data"));
    assert_eq!(found.repairs.len(), 6, "nothing is left of it");
}
