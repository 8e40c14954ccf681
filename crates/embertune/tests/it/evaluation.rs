//! Evaluation by retrieval: counting what is unusual, and the published numbers of real models.

use std::collections::HashMap;
use std::path::Path;

use embertune::data::{Example, Pool, TextId, read_pool};
use embertune::eval::retrieval::score;
use embertune::eval::trec::{read_run, write_run};
use embertune::eval::{EvalSettings, Metric, Query, Rankings, Results, SetResults, TestSet, evaluate, queries_of};
use embertune::model::EmbeddingModel;
use embertune::progress::Silent;
use embertune_kernels::cpu::Cpu;
use serde_json::Value;

use crate::golden;
use crate::metrics::parse;
use crate::said::Said;

/// A data set by ids: BEIR's `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` (the test judgments).
pub struct Judged {
    /// Texts by line.
    pub corpus: Vec<String>,
    /// Query texts by id.
    pub queries: HashMap<String, String>,
    /// `(line of the corpus, grade)` by query id.
    pub grades: HashMap<String, Vec<(usize, i32)>>,
}

impl Judged {
    /// Reads a folder.
    pub fn read(folder: &Path) -> Judged {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let objects = |name: &str| read(name).lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<Value>>();
        let text = |object: &Value, field: &str| object[field].as_str().unwrap().to_string();
        let corpus = objects("corpus.jsonl");
        let line_of: HashMap<_, _> = corpus.iter().enumerate().map(|(line, doc)| (text(doc, "id"), line)).collect();
        let mut grades: HashMap<String, Vec<(usize, i32)>> = HashMap::new();
        for line in read("qrels.tsv").lines().skip(1) {
            let [query, document, grade] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            grades.entry(query.into()).or_default().push((line_of[document], grade.parse().unwrap()));
        }
        Judged {
            corpus: corpus.iter().map(|doc| text(doc, "text")).collect(),
            queries: objects("queries.jsonl").iter().map(|q| (text(q, "_id"), text(q, "text"))).collect(),
            grades,
        }
    }
}

fn example(query: &str, positives: &[&str]) -> Example {
    let positives = positives.iter().map(|text| text.to_string()).collect();
    Example { query: query.into(), positives, line: 1, ..Example::default() }
}

#[test]
fn rows_with_the_same_query_are_one_query_with_all_their_positives() {
    let said = Said::default();
    let queries = queries_of(&[example("q", &["a", "a "]), example("r", &["c"]), example(" q", &["b", "a"])], &said);
    let judged = |texts: &[&str]| texts.iter().map(|text| (TextId::of(text), 1)).collect::<Vec<_>>();
    assert_eq!(queries.len(), 2);
    assert_eq!((queries[0].text.as_str(), &queries[0].judged), ("q", &judged(&["a", "b"])));
    assert_eq!(said.lines(), ["note: 1 rows repeat the query of an earlier row; their positives are joined"]);
}

/// The results where `rankings[i]` holds places of passages among the distinct ones, best first.
fn results(queries: &[Query], pool: &[&str], rankings: &[&[usize]]) -> SetResults {
    let set = TestSet::of_rows("set", queries, &Pool::new(pool.iter().map(|text| text.to_string())));
    let named = |ranking: &&[usize]| {
        let hits = ranking.iter().enumerate();
        hits.map(|(rank, &place)| (set.documents[place].id.clone(), 1.0 - rank as f32 / 10.0)).collect()
    };
    let of_query = rankings.iter().map(named).collect();
    SetResults::new(&set, Rankings { of_query, depth: 100, ..Rankings::default() }, &Silent)
}

#[test]
fn positives_outside_the_pool_are_counted_and_stay_relevant() {
    let pool = Pool::new(["x", "a", "b", "a"].map(String::from));
    let queries = queries_of(&[example("q", &["a", "gone"]), example("r", &["gone too"])], &Silent);
    let result = score(&queries, &pool, &[vec![0, 1, 2], vec![2, 1, 0]], &[2]);
    let counts = &result.counts;
    assert_eq!((result.n_queries, counts.n_candidates, counts.n_duplicate_candidates), (2, 3, 1));
    assert_eq!((counts.n_positives, counts.n_positives_missing, counts.n_queries_without_positive), (3, 2, 1));
    let of = |metric| &result.scores.iter().find(|s| s.metric == metric).unwrap().per_query;
    assert_eq!(of(Metric::Recall), &[0.5, 0.0]);
    assert_eq!(of(Metric::Mrr), &[0.5, 0.0]);
    assert_eq!(result.mean(Metric::Hit, 2), Some(0.5));
    assert_eq!(result.mean(Metric::Hit, 3), None);
}

/// `{"MRR@1": 0.7385, "Hit@1": 0.7336}` stands on the original's page: impossible, and due to its matching by substring.
#[test]
fn a_positive_within_a_longer_candidate_is_not_found() {
    let pool = Pool::new(["the cat sat on the mat", "the cat"].map(String::from));
    let queries = queries_of(&[example("q", &["the cat"])], &Silent);
    let result = score(&queries, &pool, &[vec![0, 1]], &[1, 2]);
    for metric in [Metric::Mrr, Metric::Hit] {
        assert_eq!(result.mean(metric, 1), Some(0.0));
    }
    assert_eq!(result.mean(Metric::Mrr, 2), Some(0.5));
}

#[test]
fn what_is_saved_is_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let queries = queries_of(&[example("fast editor", &["an editor"]), example("mail", &["reads mail"])], &Silent);
    let pool = ["an editor", "plays chess", "reads mail"];
    let set = results(&queries, &pool, &[&[1, 0], &[2, 0]]);
    assert_eq!(set.values("mrr@10".parse().unwrap()), [0.5, 1.0]);
    assert_eq!((set.queries[0].first_relevant(), set.queries[0].n_words), (Some(2), 2));
    // `fast` is in no passage; `mail` is in one.
    assert_eq!([set.queries[0].rarest_word_in, set.queries[1].rarest_word_in], [Some(0), Some(1)]);
    let saved = Results::new("model", vec![set]);
    saved.write(&path, &[1]).unwrap();
    assert_eq!(Results::read(&path).unwrap(), saved);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""MRR@1":[0.0,1.0]"#) && text.contains("plays chess"), "{text}");

    let mut bare = saved;
    bare.sets[0].leave_out_texts(&[]);
    bare.write(&path, &[1]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for word in ["editor", "mail", "chess"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
    let error = Results::read(&path).unwrap_err();
    assert!(error.to_string().contains("version 2, expected `embertune-results` version 1"), "{error}");
}

/// trec_eval sorts a run by score, then by name, descending: a run of ours has to keep its order there.
#[test]
fn a_run_that_was_written_is_read_in_the_same_order_although_scores_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let queries = queries_of(&[example("q", &["b"])], &Silent);
    let set = TestSet::of_rows("set", &queries, &Pool::new(["a", "b", "c", "d"].map(String::from)));
    let hits = [("d1", 0.5), ("d2", 0.5), ("d4", 0.5), ("d3", 0.0)].map(|(id, score)| (id.to_string(), score));
    let rankings = Rankings { of_query: vec![hits.to_vec()], depth: 4, ..Rankings::default() };
    let written = SetResults::new(&set, rankings, &Silent);
    write_run(&path, &written, "my model").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().next().unwrap(), "q1 Q0 d1 1 0.5 my_model");
    let read = SetResults::new(&set, read_run(&path, &set, &Silent).unwrap(), &Silent);
    let ids = |set: &SetResults| set.queries[0].ranking.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&read), ids(&written));
}

#[test]
fn runs_from_elsewhere_are_ordered_as_trec_eval_orders_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("qrels"), "q 0 b 1\np 0 x 2\np 0 y 0\n").unwrap();
    let set = TestSet::read_judgments(&path("qrels")).unwrap();
    let order = |run: &str| {
        std::fs::write(path("run"), run).unwrap();
        let said = Said::default();
        let read = read_run(&path("run"), &set, &said).map_err(|error| error.to_string())?;
        let first = read.of_query[0].iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        Ok::<_, String>((first.join(" "), said.lines()))
    };
    // The rank column does not count, equal scores go by name, descending, and so do scores that are equal only in f32.
    let run = "q Q0 c 1 0.2 t\nq Q0 a 2 0.9 t\nq Q0 b 3 0.9 t\nq Q0 d 4 0.2000000001 t\nz Q0 a 1 1 t\n";
    let (first, said) = order(run).unwrap();
    assert_eq!(first, "b a d c");
    assert_eq!(
        said,
        [
            "warning: 1 of 2 queries are not in the run: their metrics are 0",
            "note: 1 queries of the run have no judgments and are left out"
        ]
    );
    for (run, expected) in [
        ("q Q0 a 1 0.5 t\nq Q0 a 2 0.4 t\n", ":2: `a` was found for `q` already"),
        ("q Q0 a 1 nan t\n", ":1: the score `nan` is no finite number"),
        ("q a 0.5\n", ":1: found 3 fields, expected 6"),
        ("r Q0 a 1 0.5 t\n", "none of the 2 queries is in the run"),
    ] {
        let error = order(run).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_beir_folder_keeps_documents_apart_by_name_and_leaves_out_queries_without_judgments() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("corpus.jsonl", "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"b\", \"text\": \"x\"}\n");
    write(
        "queries.jsonl",
        "{\"_id\": \"1\", \"text\": \"one\", \"metadata\": {\"kind\": \"k\"}}\n{\"_id\": \"2\", \"text\": \"two\"}\n",
    );
    write("qrels.tsv", "query-id\tcorpus-id\tscore\n1\tb\t2\n1\tgone\t1\n");
    let set = TestSet::read_beir(folder.path(), "test").unwrap();
    assert_eq!((set.documents.len(), set.queries.len(), set.n_duplicates), (2, 1, 0));
    assert_eq!(set.queries[0].judged, [("b".to_string(), 2), ("gone".to_string(), 1)]);
    assert_eq!(set.queries[0].fields["kind"], "k");
    let error = TestSet::read_beir(folder.path(), "dev").unwrap_err();
    assert!(error.to_string().contains("`qrels/dev.tsv` or `qrels.dev.tsv` is missing"), "{error}");
    write("qrels.tsv", "9 b 1\n");
    let error = TestSet::read_beir(folder.path(), "test").unwrap_err();
    assert!(error.to_string().contains("the query `9` has judgments but no text"), "{error}");
}

/// Golden README: metrics end to end differ by 0 between correct programs; 1e-6 is allowed.
const END_TO_END: f64 = 1e-6;

fn check_end_to_end(set: &str) {
    let (Some(folder), Some(model), Some(golden)) =
        (golden::data(set), golden::real_model("all-MiniLM-L6-v2"), golden::json("evaluation.json"))
    else {
        return;
    };
    let golden = &golden["sets"][set];
    let data = Judged::read(&folder);
    let pool = read_pool(&folder.join("corpus.jsonl"), &Silent).unwrap();
    let queries: Vec<_> = golden["query_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .map(|id| Query {
            text: data.queries[id].clone(),
            judged: data.grades[id].iter().map(|(line, grade)| (TextId::of(&data.corpus[*line]), *grade)).collect(),
        })
        .collect();
    let model = EmbeddingModel::load(Cpu::new(), &model, &Default::default(), &Silent).unwrap();
    let settings = EvalSettings { cutoffs: vec![1, 5, 10, 100], ..EvalSettings::default() };
    let start = std::time::Instant::now();
    let result = evaluate(&model, &queries, pool, &settings, &Silent).unwrap();
    eprintln!("{set}: {:.1} s", start.elapsed().as_secs_f64());
    for (name, expected) in golden["definition"].as_object().unwrap() {
        let (metric, cutoff) = parse(name);
        let (mean, expected) = (result.mean(metric, cutoff).unwrap(), expected.as_f64().unwrap());
        eprintln!("{set} {name}: {mean:.6} (golden {expected:.6})");
        assert!((mean - expected).abs() <= END_TO_END, "{set}, {name}: {mean} not {expected}");
    }
    if set == "scifact" {
        let ndcg = result.mean(Metric::Ndcg, 10).unwrap();
        // Published by MTEB for all-MiniLM-L6-v2: 0.64508.
        assert!((ndcg - 0.6451).abs() <= 0.002, "{ndcg}");
    }
}

#[test]
#[ignore = "embeds 1499 texts of about 200 tokens: `cargo test -- --ignored`"]
fn cranfield_with_minilm_has_the_golden_metrics() {
    check_end_to_end("cranfield");
}

#[test]
#[ignore = "embeds 5483 texts of about 250 tokens: `cargo test -- --ignored`"]
fn scifact_with_minilm_has_the_golden_and_the_published_metrics() {
    check_end_to_end("scifact");
}
