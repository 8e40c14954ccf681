//! Comparing two results: the verdict in words, slices, what is shown, requirements, and what is refused.

use embertune::eval::verdict::Requirement;
use embertune::eval::{CompareSettings, Comparison, Rankings, Resampling, Results, SetResults, TestSet};
use embertune::progress::Silent;

/// A set of `n` queries with one relevant passage each, in which it stands at `rank(i)`, from 1.
fn set(name: &str, n: usize, rank: impl Fn(usize) -> usize) -> SetResults {
    set_with(name, n, |i| format!("{} {i}", if i % 2 == 0 { "short" } else { "a query of more words" }), "kind", rank)
}

/// The same with these queries and this name of the field that is the query's number modulo 3.
fn set_with(
    name: &str,
    n: usize,
    query: impl Fn(usize) -> String,
    field: &str,
    rank: impl Fn(usize) -> usize,
) -> SetResults {
    let documents: Vec<_> = (0..20).map(|i| format!("passage number{i}")).collect();
    let rows: Vec<_> = (0..n)
        .map(|i| serde_json::json!({"query": query(i), "pos": [documents[0]], field: i % 3}).to_string())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows.join("\n")).unwrap();
    let rows = embertune::data::read_rows(&path, &Silent).unwrap();
    let set = TestSet::of_row_file(name, rows, documents, &Silent);
    let ranking = |i: usize| {
        let mut ids: Vec<_> = (2..=20).map(|d| format!("d{d}")).collect();
        ids.insert(rank(i) - 1, "d1".into());
        ids.into_iter().enumerate().map(|(place, id)| (id, 1.0 - place as f32 / 100.0)).collect()
    };
    let of_query = (0..n).map(ranking).collect();
    SetResults::new(&set, Rankings { of_query, depth: 100, ..Rankings::default() }, &Silent)
}

fn settings() -> CompareSettings {
    CompareSettings {
        metric: "mrr@10".parse().unwrap(),
        others: vec!["hit@1".parse().unwrap()],
        slice_by: vec!["kind".into()],
        n_shown: 2,
        resampling: Resampling { n_samples: 999, seed: 42 },
    }
}

fn compare(base: Vec<SetResults>, tuned: Vec<SetResults>) -> Comparison {
    Comparison::of(&Results::new("base", base), &Results::new("tuned", tuned), &settings()).unwrap()
}

/// A third of the queries gains, a tenth loses.
fn tuned_rank(i: usize) -> usize {
    match i {
        _ if i.is_multiple_of(3) => 1,
        _ if i % 10 == 1 => 4,
        _ => 2,
    }
}

#[test]
fn a_gain_beyond_chance_is_better_in_one_sentence() {
    let comparison = compare(vec![set("test", 300, |_| 2)], vec![set("test", 300, tuned_rank)]);
    let verdict = comparison.verdict();
    assert!(verdict.starts_with("better: MRR@10 +0.15"), "{verdict}");
    assert!(verdict.contains("] on 300 held-out queries; 100 won, 20 lost"), "{verdict}");
    let swapped = compare(vec![set("test", 300, tuned_rank)], vec![set("test", 300, |_| 2)]);
    assert!(swapped.verdict().starts_with("worse: MRR@10 -0.15"), "{}", swapped.verdict());
}

#[test]
fn too_few_queries_are_said_with_how_many_it_takes() {
    let few = |i: usize| if i < 3 { 1 } else { 2 + usize::from(i == 4) };
    let comparison = compare(vec![set("test", 20, |_| 2)], vec![set("test", 20, few)]);
    let verdict = comparison.verdict();
    assert!(verdict.starts_with("no difference can be shown with 20 queries: MRR@10 +0.067 ["), "{verdict}");
    assert!(verdict.contains("; about ") && verdict.ends_with(" are needed for one of this size"), "{verdict}");
    let same = compare(vec![set("test", 20, |_| 2)], vec![set("test", 20, |_| 2)]);
    assert_eq!(same.verdict(), "no difference: MRR@10 is the same for each of 20 queries");
}

#[test]
fn a_loss_on_a_probe_is_named_in_the_verdict() {
    let probe = |rank: usize| set("law", 100, move |_| rank);
    let sets = |probe| vec![set("test", 300, |_| 2), probe];
    let tuned = |probe| vec![set("test", 300, tuned_rank), probe];
    let forgot = compare(sets(probe(1)), tuned(probe(3)));
    assert!(forgot.verdict().ends_with(", but worse on the probe `law`: MRR@10 -0.667"), "{}", forgot.verdict());
    let mixed = compare(sets(probe(2)), tuned(set("law", 100, |i| if i % 3 == 0 { 1 } else { 4 })));
    assert!(
        mixed.verdict().contains(", and no loss shown on the probe `law` (its interval begins at -0.0"),
        "{}",
        mixed.verdict()
    );
    let gained = compare(sets(probe(2)), tuned(probe(1)));
    assert!(gained.verdict().ends_with(", and no loss on the probe `law`"), "{}", gained.verdict());
}

#[test]
fn languages_that_scripts_tell_apart_are_named_once() {
    let query = |i| match i % 3 {
        0 => format!("{i} этот инструмент может разделить документ на отдельные страницы"),
        _ => format!("{i} which of these tools would be able to split a document into its pages"),
    };
    let sliced = |query: &dyn Fn(usize) -> String| {
        let comparison =
            compare(vec![set_with("test", 60, query, "kind", |_| 2)], vec![set_with("test", 60, query, "kind", |_| 1)]);
        let is_of_letters = |by: &&str| matches!(*by, "language" | "script");
        let by = comparison.sets[0].slices.iter().map(|slice| slice.by.as_str());
        by.filter(is_of_letters).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(sliced(&query), ["language", "language"]);
    let with_german = |i| match i % 3 {
        1 => format!("{i} welches dieser Werkzeuge kann ein Dokument in seine einzelnen Seiten zerlegen"),
        _ => query(i),
    };
    assert_eq!(sliced(&with_german), ["language", "language", "language", "script", "script"]);
}

#[test]
fn queries_in_several_languages_are_sliced_by_them_unless_the_data_says_the_language() {
    let query = |i| match i % 3 {
        0 => format!("{i} welches dieser Werkzeuge kann ein Dokument in seine einzelnen Seiten zerlegen"),
        _ => format!("{i} which of these tools would be able to split a document into its pages"),
    };
    let slices = |field: &str| {
        let of = |rank: fn(usize) -> usize| Results::new("model", vec![set_with("test", 60, query, field, rank)]);
        let settings = CompareSettings { slice_by: vec![field.into()], ..settings() };
        let comparison = Comparison::of(&of(|_| 2), &of(|i| 2 - usize::from(i % 3 == 0)), &settings).unwrap();
        let by_language = comparison.sets[0].slices.iter().filter(|slice| slice.by == "language");
        by_language.map(|s| (s.group.clone(), s.difference.n, s.difference.won)).collect::<Vec<_>>()
    };
    assert_eq!(slices("kind"), [("English".into(), 40, 0), ("German".into(), 20, 20)]);
    assert_eq!(slices("language"), [("0".into(), 20, 20), ("1".into(), 20, 0), ("2".into(), 20, 0)]);
}

#[test]
fn slices_and_the_queries_that_changed_most_are_those_of_the_test_set() {
    let comparison = compare(vec![set("test", 300, |_| 2)], vec![set("test", 300, tuned_rank)]);
    let test = &comparison.sets[0];
    let slices: Vec<_> = test.slices.iter().map(|s| (s.by.as_str(), s.group.as_str(), s.difference.n)).collect();
    assert!(slices.contains(&("length", "1 to 2 words", 150)) && slices.contains(&("kind", "0", 100)), "{slices:?}");
    assert!(!slices.iter().any(|(by, ..)| *by == "script"), "one script is no slice: {slices:?}");
    let gains: Vec<_> = test.slices.iter().filter(|s| s.by == "kind").map(|s| s.difference.won).collect();
    assert_eq!(gains, [100, 0, 0], "only queries of kind 0 gain");
    assert_eq!((test.gained.len(), test.lost.len()), (2, 2));
    let gain = &test.gained[0];
    assert_eq!((gain.query.as_str(), gain.text.as_deref()), ("q1", Some("short 0")));
    assert_eq!((gain.base.first_relevant, gain.tuned.first_relevant), (Some(2), Some(1)));
    assert_eq!(gain.tuned.documents[0].text.as_deref(), Some("passage number0"));
    assert_eq!((gain.tuned.documents[0].grade, gain.base.documents[0].grade), (1, 0));
    assert_eq!(test.lost[0].tuned.value, 0.25);
}

#[test]
fn requirements_are_met_or_say_what_is_missing() {
    let base = vec![set("test", 300, |_| 2), set("law", 100, |_| 1)];
    let tuned = vec![set("test", 300, tuned_rank), set("law", 100, |_| 3)];
    let comparison = compare(base, tuned);
    let unmet = |text: &str| text.parse::<Requirement>().unwrap().unmet(&comparison).unwrap();
    for met in ["better", "mrr@10>=+0.1", "MRR@10 >= 0.6", "hit@1>=0.3", "law:mrr@10>=-0.7", "hit@1>=+0.33"] {
        assert_eq!(unmet(met), None, "{met}");
    }
    for (text, said) in [
        ("not_worse", "but worse on the probe `law`"),
        ("mrr@10>=+0.2", "requirement `mrr@10>=+0.2` is not met: the difference is +0.15"),
        ("mrr@10>=0.9", "it is 0.65"),
        ("law:mrr@10>=-0.01", "the difference is -0.6667"),
    ] {
        assert!(unmet(text).unwrap().contains(said), "{text}: {:?}", unmet(text));
    }
    let error = "med:mrr@10>=0".parse::<Requirement>().unwrap().unmet(&comparison).unwrap_err();
    assert!(error.to_string().contains("there are `test`, `law`"), "{error}");
    for wrong in ["mrr@10", "mrr@10>0.1", "mrr>=0.1", "mrr@10>=2", "mrr@10>=much", "good"] {
        assert!(wrong.parse::<Requirement>().is_err(), "{wrong}");
    }
}

#[test]
fn results_of_different_test_sets_are_refused_with_what_differs() {
    let of = |base: Vec<SetResults>, tuned: Vec<SetResults>, settings: &CompareSettings| {
        let compared = Comparison::of(&Results::new("a", base), &Results::new("b", tuned), settings);
        compared.unwrap_err().to_string()
    };
    let test = || set("test", 20, |_| 2);
    assert!(of(vec![test()], vec![set("test", 21, |_| 2)], &settings()).contains("their queries differ"));
    let mut other = test();
    other.documents_id = Some("other".into());
    assert!(of(vec![test()], vec![other], &settings()).contains("their passages differ"));
    let mut other = test();
    other.judgments_id = "other".into();
    assert!(of(vec![test()], vec![other], &settings()).contains("their judgments differ"));
    assert!(of(vec![test()], vec![test(), test()], &settings()).contains("`a` has results on 1 test sets, `b` on 2"));
    let unknown = CompareSettings { slice_by: vec!["age".into()], ..settings() };
    assert!(
        of(vec![test()], vec![test()], &unknown)
            .contains("no query has a field `age` to slice by; the fields are: `kind`")
    );
    let mut short = test();
    short.depth = 5;
    assert!(of(vec![test()], vec![short], &settings()).contains("MRR@10 needs 10 ranks; the results on `test` have 5"));
}
