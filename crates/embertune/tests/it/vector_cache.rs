//! Vectors that are kept in a folder: nothing is embedded twice, and nobody gets vectors of another model.

use std::fs;
use std::path::Path;

use embertune::embed::Vectors;
use embertune::embed::cache::{Embedding, VectorCache};
use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::{Progress, Silent};
use embertune::text::Role;
use embertune_kernels::cpu::Cpu;

use crate::golden;
use crate::said::Said;

const TEXTS: [&str; 5] = ["flow over a wing", "heat", "the boundary layer of a flat plate", "heat", "shock"];

fn model(overrides: &Overrides) -> Option<EmbeddingModel<Cpu>> {
    Some(EmbeddingModel::load(Cpu::new(), &golden::golden("tiny-bert")?, overrides, &Silent).unwrap())
}

fn cache(folder: &Path) -> VectorCache {
    VectorCache { folder: folder.join("vectors"), limit_bytes: 1_000_000 }
}

/// The vectors, and how many texts were embedded for them.
fn embed(model: &EmbeddingModel<Cpu>, cache: &VectorCache, texts: &[&str], role: Role) -> (Vectors, u64) {
    let said = Said::default();
    let vectors = Embedding { cache: Some(cache), ..3.into() }.embed(model, texts, role, &said).unwrap();
    (vectors, said.units())
}

fn without_cache(model: &EmbeddingModel<Cpu>, texts: &[&str], role: Role) -> Vectors {
    Embedding::from(3).embed(model, texts, role, &Silent).unwrap()
}

fn file_of(cache: &VectorCache, ending: &str) -> std::path::PathBuf {
    let files = fs::read_dir(&cache.folder).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().unwrap() == ending)
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

#[test]
fn what_was_embedded_once_is_read_and_the_same_bit_for_bit() {
    let (Some(model), folder) = (model(&Overrides::default()), tempfile::tempdir().unwrap()) else { return };
    let cache = cache(folder.path());
    let (first, n_first) = embed(&model, &cache, &TEXTS, Role::Passage);
    assert_eq!((first.n_rows(), n_first), (5, 4), "equal texts once");
    assert_eq!(first, without_cache(&model, &TEXTS, Role::Passage));
    assert_eq!(embed(&model, &cache, &TEXTS, Role::Passage), (first.clone(), 0));

    let (more, n_more) = embed(&model, &cache, &["shock", "new", "heat"], Role::Passage);
    assert_eq!(n_more, 1);
    assert_eq!((more.row(0), more.row(2)), (first.row(4), first.row(1)));
}

#[test]
fn other_prompts_settings_roles_and_weights_never_get_vectors_of_before() {
    let (Some(base), folder) = (model(&Overrides::default()), tempfile::tempdir().unwrap()) else { return };
    let cache = cache(folder.path());
    embed(&base, &cache, &TEXTS, Role::Passage);
    let others = [
        Overrides { passage_prompt: Some("passage: ".into()), ..Overrides::default() },
        Overrides { max_seq_length: Some(4), ..Overrides::default() },
        Overrides { normalize: Some(!base.is_normalized()), ..Overrides::default() },
        Overrides { pooling: Some(embertune::model::pooling_named("max").unwrap()), ..Overrides::default() },
    ];
    for overrides in others {
        let other = model(&overrides).unwrap();
        let (vectors, n_new) = embed(&other, &cache, &TEXTS, Role::Passage);
        assert_eq!((n_new, &vectors), (4, &without_cache(&other, &TEXTS, Role::Passage)), "{overrides:?}");
        // What was cut is known from the cache, too.
        assert_eq!(embed(&other, &cache, &TEXTS, Role::Passage), (vectors, 0));
    }
    assert_eq!(embed(&base, &cache, &TEXTS, Role::Query).1, 4);
    let mut trained = model(&Overrides::default()).unwrap();
    let (ops, last) = (trained.shared_ops(), trained.parameters().list.len() - 1);
    let param = &mut trained.parameters_mut().list[last];
    let mut values = embertune_kernels::Ops::download(&*ops, &param.value);
    values[0] += 1e-3;
    param.value = embertune_kernels::Ops::upload(&*ops, &values);
    trained.parameters_mut().repack(&ops);
    assert_eq!(embed(&trained, &cache, &TEXTS, Role::Passage).1, 4);
}

#[test]
fn what_an_interrupted_or_damaged_folder_lacks_is_embedded_again() {
    let (Some(model), folder) = (model(&Overrides::default()), tempfile::tempdir().unwrap()) else { return };
    let cache = cache(folder.path());
    let (vectors, _) = embed(&model, &cache, &TEXTS, Role::Passage);
    let cut = |ending: &str, n_bytes: u64| {
        let path = file_of(&cache, ending);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - n_bytes).unwrap();
    };
    // An entry that was not written to its end; vectors without entries; entries without vectors.
    cut("keys", 1);
    assert_eq!(embed(&model, &cache, &TEXTS, Role::Passage), (vectors.clone(), 1));
    assert_eq!(embed(&model, &cache, &TEXTS, Role::Passage), (vectors.clone(), 0));
    cut("vectors", 1);
    assert_eq!(embed(&model, &cache, &TEXTS, Role::Passage), (vectors.clone(), 1));

    let path = file_of(&cache, "vectors");
    let mut bytes = fs::read(&path).unwrap();
    bytes[5] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(embed(&model, &cache, &TEXTS, Role::Passage), (vectors.clone(), 1));
    assert_eq!(embed(&model, &cache, &TEXTS, Role::Passage), (vectors, 0));
}

#[test]
fn the_folder_keeps_within_its_limit_and_the_model_of_before_goes_first() {
    let (Some(base), folder) = (model(&Overrides::default()), tempfile::tempdir().unwrap()) else { return };
    let of_a_model = 4 * (base.dim() as u64 * 4 + 25);
    let cache = VectorCache { limit_bytes: of_a_model * 3 / 2, ..cache(folder.path()) };
    let other = model(&Overrides { max_seq_length: Some(8), ..Overrides::default() }).unwrap();
    embed(&base, &cache, &TEXTS, Role::Passage);
    embed(&other, &cache, &TEXTS, Role::Passage);
    let size = || fs::read_dir(&cache.folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    assert_eq!(size(), of_a_model);
    assert_eq!(embed(&other, &cache, &TEXTS, Role::Passage).1, 0);
    assert_eq!(embed(&base, &cache, &TEXTS, Role::Passage).1, 4);
    // More than the folder may take is embedded, but not kept.
    let (queries, _) = embed(&base, &cache, &TEXTS, Role::Query);
    assert_eq!(queries, without_cache(&base, &TEXTS, Role::Query));
    assert!(size() <= cache.limit_bytes);
}

/// Another process, which needs the room of the files in this folder whenever a text is embedded.
struct Greedy<'a>(&'a Path);

impl Progress for Greedy<'_> {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {
        for file in fs::read_dir(self.0).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    fn finish(&self) {}
    fn warn(&self, _message: &str) {}
    fn note(&self, _message: &str) {}
}

#[test]
fn files_that_another_process_deletes_meanwhile_begin_anew() {
    let (Some(model), folder) = (model(&Overrides::default()), tempfile::tempdir().unwrap()) else { return };
    let cache = cache(folder.path());
    embed(&model, &cache, &["older"], Role::Passage);
    let greedy = Greedy(&cache.folder);
    let vectors = Embedding { cache: Some(&cache), ..3.into() }.embed(&model, &TEXTS, Role::Passage, &greedy).unwrap();
    assert_eq!(vectors, without_cache(&model, &TEXTS, Role::Passage));
    assert_eq!(embed(&model, &cache, &TEXTS[2..], Role::Passage).1, 0);
    assert_eq!(embed(&model, &cache, &["older"], Role::Passage).1, 1);
}
