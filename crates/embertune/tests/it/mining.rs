//! Mining against the golden lists, and what must hold for any data.

use std::collections::{HashMap, HashSet};

use embertune::data::{Example, Row, StoredPool, TextId};
use embertune::mine::known::Numbered;
use embertune::mine::select::{Judge, sift};
use embertune::mine::{
    Block, Chosen, Limits, MineSettings, Mined, Ranked, Review, RowScores, Rule, Window, choose, parse_range,
    say_what_is_missing,
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

/// All that mining made, in memory.
pub struct Done {
    pub rows: Vec<Row>,
    /// Whether a row has positives from the review.
    pub has_new_positives: Vec<bool>,
    pub scores: Vec<RowScores>,
    pub chosen: Chosen,
}

impl Done {
    pub fn of(mined: Mined<'_>) -> Done {
        let (mut rows, mut has_new_positives, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for mined in mined.rows() {
            let mined = mined.unwrap();
            rows.push(mined.row);
            has_new_positives.push(mined.has_new_positives);
            scores.extend(mined.scores);
        }
        Done { rows, has_new_positives, scores, chosen: mined.chosen }
    }
}

fn pool(texts: &[&str]) -> StoredPool {
    StoredPool::new(texts).unwrap()
}

fn settings(range: &str, n_negatives: usize) -> MineSettings {
    let rule = Rule { window: Window::Ranks(parse_range(range).unwrap()), ..MineSettings::default().rule };
    MineSettings { rule, n_negatives, ..MineSettings::default() }
}

/// Rankings as those of a search, of `block` rows at a time.
pub fn ranked(hits: Vec<Vec<Hit>>, positives: Vec<f32>, block: usize) -> Ranked<'static> {
    let find = move |block: embertune::Result<Block>| {
        block.map(|block| (Block { rows: block.rows.clone(), ..block }, hits[block.rows].to_vec()))
    };
    Ranked { block, find: Box::new(find), positives, score: Box::new(|_, _, _| Ok(0.0)) }
}

/// The negatives that were chosen, as texts.
pub fn with_negatives(rows: &[Row], pool: &StoredPool, chosen: &Chosen) -> Vec<Row> {
    let row = |(i, row): (usize, &Row)| {
        let negatives = pool.read(chosen.rows.get(i).negatives.iter().copied()).unwrap();
        Row { example: Example { negatives, ..row.example.clone() }, ..row.clone() }
    };
    rows.iter().enumerate().map(row).collect()
}

pub fn examples(rows: &[Row]) -> Vec<Example> {
    rows.iter().map(|row| row.example.clone()).collect()
}

/// The original's rule over rankings whose scores do not matter.
fn mined(
    rows: Vec<Row>,
    pool: &StoredPool,
    rankings: &[Vec<u32>],
    settings: &MineSettings,
    said: &dyn Progress,
) -> Done {
    let hits = rankings.iter().map(|ranking| ranking.iter().map(|&row| Hit { row, score: 0.0 }).collect()).collect();
    let examples = examples(&rows);
    let numbered = Numbered::of(&examples, pool).unwrap();
    let chosen = choose(&examples, numbered, ranked(hits, Vec::new(), 3), None, settings).unwrap();
    say_what_is_missing(&chosen, pool.len(), settings, said);
    let rows = with_negatives(&rows, pool, &chosen);
    Done { rows, has_new_positives: Vec::new(), scores: Vec::new(), chosen }
}

/// What the original's rule leaves of a ranking.
fn candidates(
    ranking: &[u32],
    range: &std::ops::Range<usize>,
    pool: &StoredPool,
    forbidden: &HashSet<TextId>,
) -> Vec<u32> {
    let hits: Vec<_> = ranking.iter().map(|&row| Hit { row, score: 0.0 }).collect();
    let none = HashSet::new();
    let mut forbidden: Vec<_> = forbidden.iter().filter_map(|&id| pool.row(id)).collect();
    forbidden.sort_unstable();
    let limits = Limits::default();
    let judge = Judge { forbidden: &forbidden, cleared: &none, lookalikes: None, limits, lowest_positive: None };
    let rule = Rule { window: Window::Ranks(range.clone()), ..MineSettings::default().rule };
    sift(&hits, &rule, 0..usize::MAX, &judge).unwrap().survivors.into_iter().map(|hit| hit.row).collect()
}

/// Rows of a pool in a golden list.
pub fn rows_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as u32).collect()
}

/// What the golden rule takes: the first `n` candidates of the range. We sample instead, as the original does.
fn check_golden_rule(set: &str, rule: &str, rankings: &[Vec<u32>], score: impl Fn(usize, u32) -> f32) {
    let (Some(golden), Some(folder)) = (golden::json("mining.json"), golden::data(set)) else { return };
    let data = crate::evaluation::Judged::read(&folder);
    let pool = StoredPool::new(&data.corpus).unwrap();
    assert_eq!(pool.len(), data.corpus.len(), "a row of the pool is a line of the corpus");
    let golden = &golden["sets"][set];
    let (range, n) = rule.strip_prefix("seed ").and_then(|rule| rule.split_once(" n=")).unwrap();
    let (range, n) = (parse_range(range).unwrap(), n.parse().unwrap());
    for (i, ranking) in rankings.iter().enumerate() {
        let mut forbidden: HashSet<_> =
            rows_of(&golden["positives"][i]).into_iter().map(|row| TextId::of(&data.corpus[row as usize])).collect();
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
    pool: StoredPool,
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
        let pool = StoredPool::new((0..1 + random(60)).map(|_| text(&mut random))).unwrap();
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
            let ids = pool.read(0..pool.len() as u32).unwrap().into_iter().map(|text| TextId::of(&text));
            let allowed = ids.filter(|id| *id != query && !known[&query].contains(id)).count();
            assert_eq!(negatives.len(), settings.n_negatives.min(allowed), "seed {seed}: as many as there can be");
            n_short += usize::from(allowed < settings.n_negatives);
        }
        assert_eq!(mined.chosen.n_rows_short, n_short, "seed {seed}");
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
        assert_eq!(mined.chosen.n_random_negatives, n_filled, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_negatives_and_other_rows_do_not_matter() {
    let texts: Vec<_> = (0..100).map(|i| format!("text {i}")).collect();
    let pool = StoredPool::new(&texts).unwrap();
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
fn rows_that_are_searched_together_do_not_matter() {
    for seed in 0..200 {
        let Random { rows, pool, rankings, settings } = Random::new(seed);
        let rows = examples(&rows);
        let hit = |(rank, &row): (usize, &u32)| Hit { row, score: 1.0 / (1 + rank) as f32 };
        let hits: Vec<Vec<_>> = rankings.iter().map(|ranking| ranking.iter().enumerate().map(hit).collect()).collect();
        let n_positives = rows.iter().map(|row| row.positives.len()).sum::<usize>();
        let positives: Vec<_> = (0..n_positives).map(|i| (i * 7 % 5) as f32 / 8.0).collect();
        let limits = Limits { relative_margin: Some(0.25), ..Limits::default() };
        let settings = MineSettings { scores: true, rule: Rule { limits, ..settings.rule }, ..settings };
        let of = |block: usize| {
            let numbered = Numbered::of(&rows, &pool).unwrap();
            let ranked = ranked(hits.clone(), positives.clone(), block);
            choose(&rows, numbered, ranked, Some(&Review::default()), &settings).unwrap()
        };
        let expected = of(1000);
        for chosen in [of(1), of(3)] {
            assert!(chosen.rows.iter().eq(expected.rows.iter()), "seed {seed}");
            assert_eq!((&chosen.suspects, chosen.n_suspects), (&expected.suspects, expected.n_suspects));
            assert_eq!((chosen.n_rows_filled, chosen.n_rows_short), (expected.n_rows_filled, expected.n_rows_short));
        }
    }
}

#[test]
fn too_few_candidates_and_too_small_a_pool_are_said() {
    let pool = pool(&["p", "q", "n1", "n2"]);
    let said = Said::default();
    let mined = mined(vec![row("q", &["p"], 1)], &pool, &[vec![0, 1, 2, 3]], &settings("2-3", 3), &said);
    assert_eq!(mined.rows[0].example.negatives, ["n1", "n2"]);
    assert_eq!((mined.chosen.n_rows_filled, mined.chosen.n_random_negatives, mined.chosen.n_rows_short), (1, 1, 1));
    assert_eq!(
        said.lines(),
        [
            "warning: 1 of 1 rows have too few candidates in range 2-3: 1 of their negatives are random ones from the \
             pool, not hard ones",
            "warning: 1 of 1 rows have fewer than 3 negatives: the pool has only 4 distinct texts, positives among them",
        ]
    );
}
