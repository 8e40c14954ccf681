//! Token ids against those of `transformers`.

use std::fs;

use embertune::text::Tokenizer;
use serde_json::{Value, json};

use crate::folders;
use crate::golden;
use crate::models::{ids, texts};

/// Token ids equal those of `transformers` for every text, model and length.
#[test]
fn token_ids_equal_those_of_transformers() {
    let Some(json) = golden::json("encode.json") else { return };
    for name in ["tiny-bert", "tiny-mpnet"] {
        let Some(folder) = golden::golden(name) else { return };
        for length in [64, 16] {
            check_ids(&folder, &json["texts"], &json["ids"][format!("{name}/len{length}")], length);
        }
    }
}

#[test]
fn token_ids_of_byte_level_bpe_and_unigram_equal_those_of_transformers() {
    let Some(json) = golden::json("models.json") else { return };
    for name in ["tiny-roberta", "tiny-xlm-roberta", "tiny-distilbert"] {
        let Some(folder) = golden::golden(name) else { return };
        for length in [64, 16] {
            check_ids(&folder, &json["texts"], &json["ids"][format!("{name}/len{length}")], length);
        }
    }
}

/// `transformers` reads it from `tokenizer_config.json` alone, whatever `tokenizer.json` says; false where it is missing.
#[test]
fn a_space_before_the_first_word_is_the_decision_of_the_tokenizer_config() {
    let Some(folder) = golden::golden("tiny-roberta") else { return };
    for in_tokenizer in [false, true] {
        for (in_config, expected) in [(json!(null), false), (json!(false), false), (json!(true), true)] {
            let copy = folders::copy(&folder);
            let spaced = |tokenizer: &mut Value| tokenizer["pre_tokenizer"]["add_prefix_space"] = json!(in_tokenizer);
            folders::edit(copy.path(), "tokenizer.json", spaced);
            folders::edit(copy.path(), "tokenizer_config.json", |config| {
                config["add_prefix_space"] = in_config.clone()
            });
            let tokens = load(copy.path()).encode(&["library", " library"], "", 64).expect("ids");
            assert_eq!(tokens[0].ids == tokens[1].ids, expected, "{in_tokenizer} and {in_config}");
        }
    }
}

#[test]
fn a_tokenizer_that_is_not_read_has_a_hint() {
    for (name, expected) in [("sentencepiece.bpe.model", "AutoTokenizer"), ("other", "of the base model")] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(name), "").expect("a file");
        let error = Tokenizer::load(folder.path()).err().expect("an error");
        assert!(error.hint().expect("a hint").contains(expected), "{name}: {:?}", error.hint());
    }
}

#[test]
fn token_ids_of_real_models_equal_those_of_transformers() {
    let Some(json) = golden::json("encode.json") else { return };
    for (name, length) in [("all-MiniLM-L6-v2", 256), ("all-mpnet-base-v2", 384)] {
        let Some(folder) = golden::real_model(name) else { continue };
        check_ids(&folder, &json["real_texts"], &json["ids"][format!("{name}/published")], length);
    }
}

#[test]
fn a_tokenizer_built_from_the_vocabulary_gives_the_same_ids() {
    let Some(json) = golden::json("encode.json") else { return };
    for name in ["tiny-bert", "tiny-mpnet"] {
        let Some(folder) = golden::golden(name) else { return };
        let bare = tempfile::tempdir().expect("a folder");
        for file in ["vocab.txt", "tokenizer_config.json"] {
            fs::copy(folder.join(file), bare.path().join(file)).expect("a copy");
        }
        check_ids(bare.path(), &json["texts"], &json["ids"][format!("{name}/len64")], 64);
    }
}

#[test]
fn published_truncation_and_padding_are_switched_off() {
    let Some(folder) = golden::golden("tiny-bert") else { return };
    let text = fs::read_to_string(folder.join("tokenizer.json")).expect("a tokenizer");
    let text = text.replacen(
        r#""truncation":null,"padding":null"#,
        r#""truncation":{"max_length":5,"strategy":"LongestFirst","stride":0,"direction":"Right"},"padding":{"strategy":{"Fixed":12},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"[PAD]"}"#,
        1,
    );
    assert!(text.contains("Fixed"), "the golden file has changed its spelling");
    let changed = tempfile::tempdir().expect("a folder");
    fs::write(changed.path().join("tokenizer.json"), text).expect("a file");
    let (plain, changed) = (load(&folder), load(changed.path()));
    for text in ["a", "one two three four five six seven eight nine ten"] {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(&[text], "", 64).expect("ids");
        assert_eq!(ids(&plain), ids(&changed));
    }
}

#[test]
fn truncation_keeps_the_closing_separator() {
    let Some(folder) = golden::golden("tiny-bert") else { return };
    let tokenizer = load(&folder);
    let text = "boundary layer ".repeat(50);
    let long = &tokenizer.encode(&[&text], "", 1000).expect("ids")[0];
    let short = &tokenizer.encode(&[&text], "", 10).expect("ids")[0];
    assert!(!long.truncated && short.truncated);
    assert_eq!(short.ids.len(), 10);
    assert_eq!(short.ids[..9], long.ids[..9]);
    assert_eq!(short.ids.last(), long.ids.last());
    let exact = &tokenizer.encode(&[&text], "", long.ids.len()).expect("ids")[0];
    assert_eq!(exact, long);
}

#[test]
fn an_empty_text_is_its_special_tokens() {
    let Some(folder) = golden::golden("tiny-bert") else { return };
    assert_eq!(load(&folder).encode(&[""], "", 3).expect("ids")[0].ids, [2, 3]);
}

#[test]
fn a_length_without_room_for_text_is_an_error() {
    let Some(folder) = golden::golden("tiny-bert") else { return };
    let error = load(&folder).encode(&["a"], "", 2).expect_err("no room");
    assert_eq!(error.to_string(), "a maximum length of 2 tokens leaves no room for text; the least is 3");
}

/// sentence-transformers counts the tokens of the prompt alone, without the closing separator.
#[test]
fn the_length_of_a_prompt_counts_the_opening_token() {
    let Some(folder) = golden::golden("tiny-bert") else { return };
    let tokenizer = load(&folder);
    let prompt = &tokenizer.encode(&["a : "], "", 64).expect("ids")[0].ids;
    let prompted = tokenizer.encode(&["flow", ""], "a : ", 64).expect("ids");
    for tokens in &prompted {
        assert_eq!(tokens.prompt_len as usize, prompt.len() - 1);
        assert_eq!(tokens.ids[..prompt.len() - 1], prompt[..prompt.len() - 1]);
    }
    // A prompt that fills the limit leaves the last token to pooling.
    assert_eq!(tokenizer.encode(&["flow"], "a : ", 3).expect("ids")[0].prompt_len, 2);
}

fn load(folder: &std::path::Path) -> Tokenizer {
    Tokenizer::load(folder).expect("a tokenizer")
}

fn check_ids(folder: &std::path::Path, json_texts: &Value, expected: &Value, length: usize) {
    let texts = texts(json_texts);
    let tokens = load(folder).encode(&texts, "", length).expect("ids");
    for ((tokens, expected), text) in tokens.iter().zip(ids(expected)).zip(&texts) {
        assert_eq!(tokens.ids, expected, "{}, {length} tokens, {text:?}", folder.display());
    }
}
