//! Mining against the golden lists, and what must hold for any data.

use std::collections::{HashMap, HashSet};

use embertune::data::{Example, Pool, Row, TextId};
use embertune::mine::select::{Judge, sift};
use embertune::mine::{
    Limits, MineSettings, Mined, Ranked, Review, Rule, Window, choose, parse_range, say_what_is_missing,
};
use embertune::progress::{Progress, Silent};
use embertune::search::{Hit, top_k};
use embertune_kernels::dropout::splitmix64;
use serde_json::{Map, Value};

use crate::golden;
use crate::said::Said;
use crate::search::{SCORE, vectors};

/// A row without negatives.
pub fn row(query: &str, positives: &[&str], line: usize) -> Row {
    let positives: Vec<_> = positives.iter().map(|text| text.to_string()).collect();
    let example = Example { query: query.into(), positives, line, ..Example::default() };
    Row { example, fields: Map::new() }
}

fn pool(texts: &[&str]) -> Pool {
    Pool::new(texts.iter().map(|text| text.to_string()))
}

fn settings(range: &str, n_negatives: usize) -> MineSettings {
    let rule = Rule { window: Window::Ranks(parse_range(range).unwrap()), ..MineSettings::default().rule };
    MineSettings { rule, n_negatives, ..MineSettings::default() }
}

/// The original's rule over rankings whose scores do not matter.
fn mined(
    rows: Vec<Row>,
    pool: &Pool,
    rankings: &[Vec<u32>],
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Mined {
    let hits = rankings.iter().map(|ranking| ranking.iter().map(|&row| Hit { row, score: 0.0 }).collect()).collect();
    let ranked = Ranked { hits, positives: Vec::new(), score: Box::new(|_, _| Ok(0.0)) };
    let mined = choose(&rows, pool, &ranked, &Review::default(), settings).unwrap().into_mined(rows, pool, settings);
    say_what_is_missing(&mined, settings, progress);
    mined
}

/// What the original's rule leaves of a ranking.
fn candidates(ranking: &[u32], range: &std::ops::Range<usize>, pool: &Pool, forbidden: &HashSet<TextId>) -> Vec<u32> {
    let hits: Vec<_> = ranking.iter().map(|&row| Hit { row, score: 0.0 }).collect();
    let none = HashSet::new();
    let judge =
        Judge { pool, forbidden, cleared: &none, lookalikes: None, limits: Limits::default(), lowest_positive: None };
    let rule = Rule { window: Window::Ranks(range.clone()), ..MineSettings::default().rule };
    sift(&hits, &rule, 0..usize::MAX, &judge).survivors.into_iter().map(|hit| hit.row).collect()
}

/// Rows of a pool in a golden list.
pub fn rows_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as u32).collect()
}

/// What the golden rule takes: the first `n` candidates of the range. We sample instead, as the original does.
fn check_golden_rule(set: &str, rule: &str, rankings: &[Vec<u32>], score: impl Fn(usize, u32) -> f32) {
    let (Some(golden), Some(folder)) = (golden::json("mining.json"), golden::data(set)) else { return };
    let data = crate::evaluation::Judged::read(&folder);
    let pool = Pool::new(data.corpus.iter().cloned());
    assert_eq!(pool.len(), data.corpus.len(), "a row of the pool is a line of the corpus");
    let golden = &golden["sets"][set];
    let (range, n) = rule.strip_prefix("seed ").and_then(|rule| rule.split_once(" n=")).unwrap();
    let (range, n) = (parse_range(range).unwrap(), n.parse().unwrap());
    for (i, ranking) in rankings.iter().enumerate() {
        let mut forbidden: HashSet<_> =
            rows_of(&golden["positives"][i]).into_iter().map(|row| pool.ids()[row as usize]).collect();
        forbidden.insert(TextId::of(&data.queries[golden["query_ids"][i].as_str().unwrap()]));
        let mut found = candidates(ranking, &range, &pool, &forbidden);
        found.truncate(n);
        let expected = rows_of(&golden["rules"][rule][i]);
        assert_eq!(found.len(), expected.len(), "{set}, {rule}, query {i}");
        // Only neighbours closer than the tolerance of scores may swap.
        for (&a, &b) in found.iter().zip(&expected) {
            assert!(a == b || (score(i, a) - score(i, b)).abs() <= SCORE, "{set}, {rule}, query {i}: {a} not {b}");
        }
    }
}

#[test]
fn golden_negatives_of_range_2_10_from_the_golden_rankings() {
    let Some(tensors) = golden::tensors("mining.safetensors") else { return };
    for set in ["scifact", "cranfield"] {
        let index = vectors(&tensors, &format!("{set}/top50/index"));
        let rankings: Vec<Vec<u32>> =
            (0..index.n_rows()).map(|i| index.row(i).iter().map(|&row| row as u32).collect()).collect();
        check_golden_rule(set, "seed 2-10 n=5", &rankings, |_, row| row as f32);
    }
}

#[test]
fn golden_negatives_from_our_search_of_the_golden_cranfield_vectors() {
    let Some(tensors) = golden::tensors("mining.safetensors") else { return };
    let [queries, corpus] = ["cranfield/queries", "cranfield/corpus"].map(|name| vectors(&tensors, name));
    let score = |i: usize, row: u32| queries.row(i).iter().zip(corpus.row(row as usize)).map(|(x, y)| x * y).sum();
    for (rule, end) in [("seed 2-10 n=5", 10), ("seed 10-210 n=15", 210)] {
        let rankings: Vec<Vec<u32>> = top_k(&queries, &corpus, end, &Silent)
            .into_iter()
            .map(|hits| hits.into_iter().map(|hit| hit.row).collect())
            .collect();
        check_golden_rule("cranfield", rule, &rankings, score);
    }
}

#[test]
fn the_range_cuts_the_raw_ranking_before_positives_are_taken_out() {
    let pool = pool(&["p0", "p1", "n2", "n3", "n4", "n5"]);
    let forbidden = HashSet::from(["p0", "p1"].map(TextId::of));
    let ranking = [2, 0, 1, 3, 4, 5];
    // Ranks 1 to 3: p0, p1, n3.
    assert_eq!(candidates(&ranking, &(1..4), &pool, &forbidden), [3]);
    assert_eq!(candidates(&ranking, &(4..100), &pool, &forbidden), [4, 5]);
    assert_eq!(candidates(&ranking, &(6..100), &pool, &forbidden), [] as [u32; 0]);
    assert_eq!(candidates(&ranking, &(70..100), &pool, &forbidden), [] as [u32; 0]);
}

/// Random data of few distinct texts, so that queries, positives and candidates collide often.
struct Random {
    rows: Vec<Row>,
    pool: Pool,
    rankings: Vec<Vec<u32>>,
    settings: MineSettings,
}

impl Random {
    fn new(seed: u64) -> Random {
        let mut state = seed;
        let mut random = |n: u64| {
            state = splitmix64(state);
            state % n
        };
        let n_texts = 2 + random(40);
        let text = |random: &mut dyn FnMut(u64) -> u64| {
            let spaces = ["", " ", "\n"][random(3) as usize];
            format!("{spaces}text {}{spaces}", random(n_texts))
        };
        let rows: Vec<_> = (0..1 + random(8))
            .map(|line| {
                let query = text(&mut random);
                let positives: Vec<_> = (0..1 + random(3)).map(|_| text(&mut random)).collect();
                row(&query, &positives.iter().map(String::as_str).collect::<Vec<_>>(), line as usize + 1)
            })
            .collect();
        let pool = Pool::new((0..1 + random(60)).map(|_| text(&mut random)));
        let rankings = rows
            .iter()
            .map(|_| {
                let mut ranking: Vec<_> = (0..pool.len() as u32).map(|row| (random(1 << 40), row)).collect();
                ranking.sort_unstable();
                ranking.into_iter().map(|(_, row)| row).collect()
            })
            .collect();
        let start = random(5) as usize;
        let range = start..start + 1 + random(10) as usize;
        let rule = Rule { window: Window::Ranks(range), ..MineSettings::default().rule };
        let settings = MineSettings { rule, n_negatives: 1 + random(8) as usize, seed, ..MineSettings::default() };
        Random { rows, pool, rankings, settings }
    }
}

#[test]
fn negatives_are_distinct_texts_of_the_pool_and_never_the_query_or_a_known_positive() {
    for seed in 0..2000 {
        let Random { rows, pool, rankings, settings } = Random::new(seed);
        let mut known: HashMap<TextId, HashSet<TextId>> = HashMap::new();
        for Row { example, .. } in &rows {
            let of_query = known.entry(TextId::of(&example.query)).or_default();
            of_query.extend(example.positives.iter().map(|text| TextId::of(text)));
        }
        let mined = mined(rows, &pool, &rankings, &settings, &Silent);
        let mut n_short = 0;
        for Row { example, .. } in &mined.rows {
            let query = TextId::of(&example.query);
            let negatives: Vec<_> = example.negatives.iter().map(|text| TextId::of(text)).collect();
            let distinct: HashSet<_> = negatives.iter().copied().collect();
            assert_eq!(distinct.len(), negatives.len(), "seed {seed}: a text twice");
            assert!(!distinct.contains(&query), "seed {seed}: the query itself");
            assert!(distinct.is_disjoint(&known[&query]), "seed {seed}: a known positive");
            assert!(distinct.iter().all(|&id| pool.row(id).is_some()), "seed {seed}: not from the pool");
            let allowed = pool.ids().iter().filter(|&id| *id != query && !known[&query].contains(id)).count();
            assert_eq!(negatives.len(), settings.n_negatives.min(allowed), "seed {seed}: as many as there can be");
            n_short += usize::from(allowed < settings.n_negatives);
        }
        assert_eq!(mined.n_rows_short, n_short, "seed {seed}");
    }
}

#[test]
fn enough_candidates_in_the_range_are_sampled_from_it_alone_in_the_order_of_their_ranks() {
    for seed in 0..200 {
        let Random { rows, pool, rankings, settings } = Random::new(seed);
        let mined = mined(rows, &pool, &rankings, &settings, &Silent);
        let mut n_filled = 0;
        for (Row { example, .. }, ranking) in mined.rows.iter().zip(&rankings) {
            let same_query = mined.rows.iter().filter(|r| TextId::of(&r.example.query) == TextId::of(&example.query));
            let mut forbidden: HashSet<_> =
                same_query.flat_map(|r| &r.example.positives).map(|text| TextId::of(text)).collect();
            forbidden.insert(TextId::of(&example.query));
            let Window::Ranks(range) = &settings.rule.window else { unreachable!() };
            let of_range = candidates(ranking, range, &pool, &forbidden);
            let rows: Vec<_> = example.negatives.iter().map(|t| pool.row(TextId::of(t)).unwrap()).collect();
            let places: Vec<_> = rows.iter().map_while(|row| of_range.iter().position(|r| r == row)).collect();
            assert_eq!(places.len(), of_range.len().min(settings.n_negatives), "seed {seed}");
            assert!(places.is_sorted(), "seed {seed}: {places:?}");
            n_filled += rows.len() - places.len();
        }
        assert_eq!(mined.n_random_negatives, n_filled, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_negatives_and_other_rows_do_not_matter() {
    let texts: Vec<_> = (0..100).map(|i| format!("text {i}")).collect();
    let pool = Pool::new(texts.iter().cloned());
    let ranking: Vec<u32> = (0..100).collect();
    let mine = |queries: &[&str], seed| {
        let rows = queries.iter().map(|query| row(query, &["text 0"], 1)).collect::<Vec<_>>();
        let rankings = vec![ranking.clone(); rows.len()];
        let settings = MineSettings { seed, ..settings("10-90", 5) };
        let mined = mined(rows, &pool, &rankings, &settings, &Silent);
        mined.rows.into_iter().map(|row| row.example.negatives).collect::<Vec<_>>()
    };
    let both = mine(&["a", "b"], 1);
    assert_eq!(both, mine(&["a", "b"], 1));
    assert_eq!(both[1], mine(&["c", "b"], 1)[1]);
    assert_ne!(both, mine(&["a", "b"], 2));
    let twice = mine(&["a", "a"], 1);
    assert_eq!(twice[0], both[0]);
    assert_ne!(twice[1], twice[0], "the second row of a query gets its own sample");
}

#[test]
fn too_few_candidates_and_too_small_a_pool_are_said() {
    let pool = pool(&["p", "q", "n1", "n2"]);
    let said = Said::default();
    let mined = mined(vec![row("q", &["p"], 1)], &pool, &[vec![0, 1, 2, 3]], &settings("2-3", 3), &said);
    assert_eq!(mined.rows[0].example.negatives, ["n1", "n2"]);
    assert_eq!((mined.n_rows_filled, mined.n_random_negatives, mined.n_rows_short), (1, 1, 1));
    assert_eq!(
        said.lines(),
        [
            "warning: 1 of 1 rows have too few candidates in range 2-3: 1 of their negatives are random ones from the \
             pool, not hard ones",
            "warning: 1 of 1 rows have fewer than 3 negatives: the pool has only 4 distinct texts, positives among them",
        ]
    );
}
