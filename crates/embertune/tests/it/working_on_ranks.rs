//! Several ranks that embed, mine and evaluate together have what one process has, to the last bit, and write the same files.

use std::fs;
use std::path::Path;

use embertune::comm::{Alone, Communicator};
use embertune::data::{Example, Pool, Row, StoredPool};
use embertune::embed::Vectors;
use embertune::embed::cache::{Embedding, VectorCache};
use embertune::eval::similarity::{ScoredPair, Triplet, evaluate_pairs, evaluate_triplets};
use embertune::eval::{Rankings, TestSet, queries_of, retrieve};
use embertune::mine::output::{Shape, write};
use embertune::mine::{MadeVectors, MineSettings, Preset, Ranking, VectorSource, mine};
use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune::text::Role;
use embertune::{Error, Result};
use embertune_kernels::cpu::Cpu;

use crate::golden::golden;
use crate::mining::row;
use crate::mining_sources::in_a_file;
use crate::ranks::{ThreadRank, on_ranks};
use crate::said::Said;

fn model() -> Option<EmbeddingModel<Cpu>> {
    Some(EmbeddingModel::load(Cpu::new(), &golden("tiny-bert")?, &Overrides::default(), &Silent).unwrap())
}

/// Texts of many lengths, some of them equal.
fn texts(n: usize) -> Vec<String> {
    let words = ["wing", "flow", "heat", "of", "the", "boundary", "layer", "shock"];
    let text = |i: usize| (0..1 + i * 7 % 23).map(|j| words[(i * 3 + j * 5) % 8]).collect::<Vec<_>>().join(" ");
    (0..n).map(|i| text(i % 45)).collect()
}

/// What `work` gives on 1 to 4 ranks, each of which loads the model; all have to agree with each other. `None` where there is no model.
fn on_all<T: PartialEq + Send>(work: impl Fn(&EmbeddingModel<Cpu>, &ThreadRank) -> T + Sync) -> Option<Vec<T>> {
    model()?;
    let on = |n| {
        let mut all = on_ranks(n, |ranks| work(&model().unwrap(), &ranks));
        assert!(all.iter().all(|other| *other == all[0]), "all of {n} ranks have the same");
        all.swap_remove(0)
    };
    Some((1..=4).map(on).collect())
}

fn embed(model: &EmbeddingModel<Cpu>, texts: &[String], embedding: Embedding<'_>, said: &Said) -> Result<Vectors> {
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    embedding.embed(model, &texts, Role::Passage, said)
}

/// `found[n - 1]` is what `n` ranks have.
fn assert_same<T: PartialEq>(found: &[T], expected: &T) {
    for (i, found) in found.iter().enumerate() {
        assert!(found == expected, "{} ranks have something else than one process", i + 1);
    }
}

#[test]
fn vectors_are_those_of_one_process_whoever_encodes_them() {
    let Some(model) = model() else { return };
    // More chunks than ranks, and fewer; no texts.
    for (n_texts, batch_size) in [(60, 3), (60, 256), (2, 1), (0, 8)] {
        let texts = texts(n_texts);
        let expected = embed(&model, &texts, batch_size.into(), &Said::default()).unwrap();
        let found = on_all(|model, ranks| {
            embed(model, &texts, Embedding { batch_size, cache: None, ranks }, &Said::default()).unwrap()
        });
        assert_same(&found.unwrap(), &expected);
    }
}

/// The files of a cache, by their names.
fn files(cache: &VectorCache) -> Vec<(String, Vec<u8>)> {
    let read = |file: fs::DirEntry| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).unwrap());
    let mut files: Vec<_> = fs::read_dir(&cache.folder).unwrap().map(|file| read(file.unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_cache_gets_what_all_ranks_made_and_all_get_what_it_has() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = |name: &str| VectorCache { folder: folder.path().join(name), limit_bytes: 1_000_000 };
    let texts = texts(60);
    let of_one = cache("one");
    let work = |model: &EmbeddingModel<Cpu>, ranks: &dyn Communicator, cache: &VectorCache| {
        let embedding = Embedding { batch_size: 4, cache: Some(cache), ranks };
        // Rank 0 alone has the folder.
        let elsewhere = VectorCache { folder: "/proc/no/such/folder".into(), limit_bytes: 0 };
        let embedding = if ranks.rank() == 0 { embedding } else { Embedding { cache: Some(&elsewhere), ..embedding } };
        // None of it is there, some, all.
        [&texts[..20], &texts, &texts].map(|texts| {
            let said = Said::default();
            let vectors = embed(model, texts, embedding, &said).unwrap();
            let known = said.lines().iter().filter(|line| line.contains("vectors of")).cloned().collect::<Vec<_>>();
            // The folders have different names.
            (vectors, known.iter().map(|line| line.split(" are in").next().unwrap().to_string()).collect::<Vec<_>>())
        })
    };
    let expected = work(&model, &Alone, &of_one);
    assert_eq!(expected.each_ref().map(|(_, known)| known.len()), [0, 1, 1]);
    let found = on_all(|model, ranks| work(model, ranks, &cache(&ranks.size().to_string()))).unwrap();
    assert_same(&found, &expected);
    for n in 1..=4 {
        assert!(files(&cache(&n.to_string())) == files(&of_one), "{n} ranks");
    }
}

/// Rows of which some share their query or their positive.
fn rows() -> Vec<Row> {
    let texts = texts(45);
    let mut rows: Vec<_> = (0..14).map(|i| row(&texts[3 * i], &[&texts[3 * i + 1]], i + 1)).collect();
    rows[13].example.query = rows[0].example.query.clone();
    rows[12].example.positives = vec!["a positive outside the pool".into()];
    rows
}

/// `mine` gives the file `expected` on 1 to 4 ranks.
fn check_mined(expected: &[u8], mine: impl Fn(&ThreadRank) -> Vec<u8> + Sync) {
    assert!(!expected.is_empty());
    for n in 1..=4 {
        for found in on_ranks(n, |ranks| mine(&ranks)) {
            assert!(found == expected, "{n} ranks mine something else than one process");
        }
    }
}

/// What `mine` writes on `ranks`.
fn mined(source: VectorSource<'_, Cpu>, ranks: &dyn Communicator, settings: &MineSettings) -> Vec<u8> {
    let (rows, pool) = (rows(), StoredPool::new(texts(60)).unwrap());
    let mined = mine(source.among(ranks), &rows, Some(pool), None, settings, &Silent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mined.jsonl");
    write(&path, &mined, Shape::Original, settings.n_negatives, &Silent).unwrap();
    fs::read(&path).unwrap()
}

#[test]
fn a_mined_file_is_that_of_one_process_whatever_ranks_the_candidates() {
    let Some(alone) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = VectorCache { folder: folder.path().into(), limit_bytes: 1_000_000 };
    for ranking in [Ranking::Dense, Ranking::Hybrid, Ranking::Bm25] {
        for preset in [Preset::NvRetriever, Preset::SentenceTransformers] {
            // More than some rows have, so that the rest is drawn from the pool.
            let settings = MineSettings { ranking, n_negatives: 30, batch_size: 4, ..preset.settings() };
            let expected = mined(VectorSource::Model(&alone), &Alone, &settings);
            check_mined(&expected, |ranks| mined(VectorSource::Model(&model().unwrap()), ranks, &settings));
            let cached = |ranks: &ThreadRank| mined(VectorSource::Cached(&model().unwrap(), &cache), ranks, &settings);
            check_mined(&expected, cached);
        }
    }
}

#[test]
fn vectors_of_files_are_searched_by_all_ranks() {
    let vectors = |n: usize, first: usize| {
        let value = |i: usize| ((i + first) * 7919 % 101) as f32 / 101.0;
        Vectors::new((0..2 * n).map(value).collect(), 2)
    };
    let settings = MineSettings { n_negatives: 5, scores: false, ..Preset::SentenceTransformers.settings() };
    let made = || {
        let [queries, passages] = [vectors(14, 3), vectors(60, 50)].map(|vectors| in_a_file("v.npy", &vectors));
        MadeVectors { queries, passages }
    };
    let expected = mined(VectorSource::Made(made()), &Alone, &settings);
    check_mined(&expected, |ranks| mined(VectorSource::Made(made()), ranks, &settings));
}

#[test]
fn rankings_and_similarities_are_those_of_one_process() {
    let texts = texts(45);
    let example =
        |i: usize| Example { query: texts[i].clone(), positives: vec![texts[44 - i].clone()], ..Example::default() };
    let queries = queries_of(&(0..20).map(example).collect::<Vec<_>>(), &Silent);
    let set = TestSet::of_rows("set", &queries, &Pool::new(texts.clone()));
    let text = |i: usize| texts[i % 45].clone();
    let pair = |i: usize| ScoredPair { left: text(i), right: text(5 * i + 1), score: (i * 7 % 11) as f64 };
    let triplet = |i: usize| Triplet { anchor: text(i), positive: text(3 * i + 1), negative: text(7 * i + 2) };
    let (pairs, triplets): (Vec<_>, Vec<_>) = ((0..30).map(pair).collect(), (0..30).map(triplet).collect());
    let work = |model: &EmbeddingModel<Cpu>, ranks: &dyn Communicator| -> Result<(Rankings, _, _)> {
        let embedding = Embedding { batch_size: 4, cache: None, ranks };
        let rankings = retrieve(model, &set, 10, embedding, &Silent)?;
        let correlations = evaluate_pairs(model, &pairs, embedding, &Silent)?;
        Ok((rankings, correlations, evaluate_triplets(model, &triplets, embedding, &Silent)?))
    };
    let Some(model) = model() else { return };
    let expected = work(&model, &Alone).unwrap();
    assert_same(&on_all(|model, ranks| work(model, ranks).unwrap()).unwrap(), &expected);
}

#[test]
fn ranks_with_other_texts_or_another_model_are_refused_and_errors_are_said_once() {
    let Some(_) = model() else { return };
    let texts = texts(9);
    let other_prompt = Overrides { passage_prompt: Some("passage: ".into()), ..Overrides::default() };
    let with = |overrides: &Overrides, texts: &[String], ranks: &ThreadRank| {
        let model = EmbeddingModel::load(Cpu::new(), &golden("tiny-bert").unwrap(), overrides, &Silent).unwrap();
        embed(&model, texts, Embedding { batch_size: 2, cache: None, ranks }, &Said::default()).map(drop)
    };
    let same = Overrides::default();
    let fewer = on_ranks(3, |ranks| with(&same, &texts[usize::from(ranks.rank() == 2)..], &ranks));
    let prompt = on_ranks(3, |ranks| with(if ranks.rank() == 1 { &other_prompt } else { &same }, &texts, &ranks));
    let rows_of_other = on_ranks(2, |ranks| {
        let settings = MineSettings { ranking: Ranking::Bm25, ..Preset::SentenceTransformers.settings() };
        let pool = StoredPool::new(&texts[ranks.rank()..])?;
        let source = VectorSource::<Cpu>::Nowhere.among(&ranks);
        mine(source, &rows(), Some(pool), None, &settings, &Silent).map(drop)
    });
    for (ended, problem) in [
        (fewer, "rank 2 on cleo: its list of texts or `--batch_size` is not that of rank 0"),
        (prompt, "rank 1 on bela: its model is not that of rank 0"),
        (rows_of_other, "rank 1 on bela: its list of rows or candidates is not that of rank 0"),
    ] {
        let error = ended[0].as_ref().unwrap_err();
        assert!(error.to_string() == problem && error.hint().is_some(), "{error}");
        assert!(ended[1..].iter().all(|result| matches!(result, Err(Error::Ended))), "{ended:?}");
    }
    let cache = VectorCache { folder: Path::new("/proc/no/such/folder").into(), limit_bytes: 0 };
    let ended = on_ranks(2, |ranks| {
        let embedding = Embedding { batch_size: 2, cache: Some(&cache), ranks: &ranks };
        embed(&model().unwrap(), &texts, embedding, &Said::default()).map(drop)
    });
    assert!(matches!(ended[..], [Err(Error::Io { .. }), Err(Error::Ended)]), "{ended:?}");
}
