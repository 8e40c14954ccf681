//! Metrics against the golden lists, the corner cases, and what must hold for any ranking.

use std::collections::HashMap;

use embertune::eval::trec::read_run;
use embertune::eval::{Evaluation, Metric, SetResults, TestSet};
use embertune::progress::Silent;
use embertune_kernels::dropout::splitmix64;
use serde_json::Value;

use crate::golden;

/// The golden README: metrics from stored lists differ by 1e-12 between correct programs; 1e-9 is allowed.
const METRIC: f64 = 1e-9;

/// `ndcg@10` as metric and cutoff.
pub fn parse(name: &str) -> (Metric, usize) {
    let (metric, cutoff) = name.split_once('@').unwrap();
    let metric = *Metric::ALL.iter().find(|m| m.name().eq_ignore_ascii_case(metric)).unwrap();
    (metric, cutoff.parse().unwrap())
}

fn grades(qrels: &Value) -> HashMap<String, i32> {
    qrels.as_object().unwrap().iter().map(|(id, grade)| (id.clone(), grade.as_i64().unwrap() as i32)).collect()
}

/// Ours is the golden `definition`: equal scores in the order of the pool, which is there the order of the ids. trec_eval
/// ranks equal scores by id descending, so it has other numbers in the cases with ties.
#[test]
fn corner_cases_have_the_defined_values() {
    let Some(golden) = golden::json("evaluation.json") else { return };
    for (case, corner) in golden["corners"].as_object().unwrap() {
        let qrels = corner["qrels"].as_object().unwrap();
        let ranked_and_judged: Vec<_> = qrels
            .iter()
            .map(|(query, qrels)| {
                let grade_of = grades(qrels);
                let run = corner["run"].get(query).and_then(Value::as_object);
                let mut run: Vec<_> = run.into_iter().flatten().map(|(id, s)| (s.as_f64().unwrap(), id)).collect();
                run.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
                let ranked: Vec<i32> = run.iter().map(|(_, id)| *grade_of.get(*id).unwrap_or(&0)).collect();
                (ranked, grade_of.into_values().collect::<Vec<_>>())
            })
            .collect();
        for (name, expected) in corner["definition"].as_object().unwrap() {
            let (metric, cutoff) = parse(name);
            let sum: f64 = ranked_and_judged.iter().map(|(ranked, judged)| metric.at(cutoff, ranked, judged)).sum();
            let (mean, expected) = (sum / qrels.len() as f64, expected.as_f64().unwrap());
            assert!((mean - expected).abs() <= METRIC, "{case}, {name}: {mean} not {expected}");
        }
    }
}

/// The same cases through files, as `evaluate --evaluate_run` reads them: now equal scores are ordered by trec_eval's rule, and every
/// value is trec_eval's. A query that is missing in the run counts as 0, which trec_eval does with `-c` alone.
#[test]
fn corner_cases_as_run_files_have_the_values_of_trec_eval() {
    let Some(golden) = golden::json("evaluation.json") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (case, corner) in golden["corners"].as_object().unwrap() {
        if case == "query_missing_in_run" {
            continue;
        }
        let mut qrels = String::new();
        for (query, judged) in corner["qrels"].as_object().unwrap() {
            for (document, grade) in judged.as_object().unwrap() {
                qrels += &format!("{query} 0 {document} {grade}\n");
            }
        }
        let mut run = String::new();
        for (query, hits) in corner["run"].as_object().unwrap() {
            for (document, score) in hits.as_object().unwrap() {
                run += &format!("{query} Q0 {document} 0 {score} tag\n");
            }
        }
        std::fs::write(path("qrels"), qrels).unwrap();
        std::fs::write(path("run"), run).unwrap();
        let set = TestSet::read_judgments(&path("qrels")).unwrap();
        let results = SetResults::new(&set, read_run(&path("run"), &set, &Silent).unwrap(), &Silent);
        let evaluation = Evaluation::of(&results, &[1, 5, 10, 100]).unwrap();
        for (name, expected) in corner["pytrec_eval"].as_object().unwrap().iter().filter(|(name, _)| name.contains('@'))
        {
            let (metric, cutoff) = parse(name);
            // The golden values cut the run before ranking it for MRR: where scores are equal in f32 alone, that cut is in f64.
            if case == "tie_only_in_float32" && name == "mrr@1" {
                continue;
            }
            let (mean, expected) = (evaluation.mean(metric, cutoff).unwrap(), expected.as_f64().unwrap());
            assert!((mean - expected).abs() <= METRIC, "{case}, {name}: {mean} not {expected}");
        }
    }
}

/// Three relevant documents: R-precision looks at the first three ranks, or at fewer where it is cut.
#[test]
fn r_precision_is_precision_at_the_number_of_relevant_documents() {
    let (ranked, judged) = ([1, 0, 2, 1], [1, 2, 1, 0]);
    let at = |k| Metric::RPrecision.at(k, &ranked, &judged);
    assert_eq!([at(1), at(2), at(3), at(4), at(100)], [1.0 / 3.0, 1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0]);
}

#[test]
fn measures_are_read_in_any_case_and_wrong_ones_are_refused() {
    use embertune::eval::Measure;
    let read = |text: &str| text.parse::<Measure>();
    assert_eq!(read("nDCG@10").unwrap(), Measure { metric: Metric::Ndcg, cutoff: 10 });
    assert_eq!(read("r-precision@5").unwrap().to_string(), "R-precision@5");
    for wrong in ["mrr", "mrr@0", "mrr@", "mrr@ten", "f1@10", "@10", ""] {
        assert!(read(wrong).unwrap_err().contains("like mrr@10"), "{wrong}");
    }
}

#[test]
fn metrics_of_the_golden_rankings() {
    let (Some(golden), Some(tensors)) = (golden::json("evaluation.json"), golden::tensors("evaluation.safetensors"))
    else {
        return;
    };
    for (set, expected) in golden["sets"].as_object().unwrap() {
        let Some(folder) = golden::data(set) else { return };
        let data = crate::evaluation::Judged::read(&folder);
        let (shape, index) = &tensors[&format!("{set}/top100/index")];
        let query_ids: Vec<_> =
            expected["query_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        assert_eq!(shape[0], query_ids.len());
        for (name, expected) in expected["definition"].as_object().unwrap() {
            let (metric, cutoff) = parse(name);
            let values = query_ids.iter().zip(index.chunks(shape[1])).map(|(query, lines)| {
                let grade_of: HashMap<usize, i32> = data.grades[*query].iter().copied().collect();
                let ranked: Vec<_> = lines.iter().map(|&l| *grade_of.get(&(l as usize)).unwrap_or(&0)).collect();
                metric.at(cutoff, &ranked, &grade_of.into_values().collect::<Vec<_>>())
            });
            let (mean, expected) = (values.sum::<f64>() / query_ids.len() as f64, expected.as_f64().unwrap());
            assert!((mean - expected).abs() <= METRIC, "{set}, {name}: {mean} not {expected}");
        }
    }
}

#[test]
fn what_holds_for_any_ranking() {
    for seed in 0..500 {
        let random = |i: u64| splitmix64(seed ^ splitmix64(i));
        let ranked: Vec<i32> = (0..1 + random(0) % 30).map(|i| [0, 0, 0, 1, 2][(random(1 + i) % 5) as usize]).collect();
        let mut judged: Vec<i32> = ranked.iter().copied().filter(|&g| g > 0).collect();
        judged.extend((0..random(90) % 4).map(|i| (random(100 + i) % 3) as i32));
        let at = |metric: Metric, k| metric.at(k, &ranked, &judged);
        assert_eq!(at(Metric::Mrr, 1), at(Metric::Hit, 1), "MRR@1 is Hit@1");
        assert_eq!(at(Metric::Precision, 1), at(Metric::Hit, 1), "Precision@1 is Hit@1");
        for metric in Metric::ALL {
            for k in 1..35 {
                assert!((0.0..=1.0 + 1e-12).contains(&at(metric, k)), "{metric:?}@{k} {}", at(metric, k));
                if !matches!(metric, Metric::Precision | Metric::Ndcg) {
                    assert!(at(metric, k + 1) >= at(metric, k), "{metric:?} does not fall with k");
                }
            }
        }
        let mut best = judged.clone();
        best.sort_unstable_by(|a, b| b.cmp(a));
        if best.iter().any(|&grade| grade > 0) {
            assert!((Metric::Ndcg.at(10, &best, &judged) - 1.0).abs() <= METRIC, "the ideal ranking has nDCG 1");
        }
    }
}

#[test]
fn what_is_not_found_has_a_zero_without_sign() {
    for metric in Metric::ALL {
        for ranked in [&[][..], &[0, 0]] {
            assert!(metric.at(10, ranked, &[1, 2]).is_sign_positive(), "{metric:?}");
        }
    }
}
