//! What a text's embedding and its dropout may not depend on.

use embertune::model::{DropoutRates, EmbeddingModel, Overrides};
use embertune::text::{Batch, Role, Tokens};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::Pooling;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::seeded;

use crate::golden;
use crate::models::{batch, difference, load, texts, tokenize};

/// A matrix product may sum in another order for another number of rows.
const ROUNDING: f32 = 1e-6;
const MODELS: [&str; 5] = ["tiny-bert", "tiny-mpnet", "tiny-roberta", "tiny-xlm-roberta", "tiny-distilbert"];

fn for_each_model(check: impl Fn(&EmbeddingModel<Cpu>, &[Tokens])) {
    let Some(json) = golden::json("encode.json") else { return };
    for name in MODELS {
        let Some(folder) = golden::golden(name) else { return };
        let model = load(Cpu::new(), &folder, &Overrides::default());
        let tokens = tokenize(&model, &texts(&json["texts"]), None);
        check(&model, &tokens);
    }
}

#[test]
fn one_text_alone_equals_the_text_in_any_batch() {
    for_each_model(|model, tokens| {
        let together = model.encode(&batch(tokens));
        for (i, text) in tokens.iter().enumerate() {
            let alone = model.encode(&batch(std::slice::from_ref(text)));
            let difference = difference(&alone, &together[i * model.dim()..][..model.dim()]);
            assert!(difference <= ROUNDING, "text {i}: {difference:e}");
        }
    });
}

#[test]
fn batch_order_does_not_change_embeddings() {
    for_each_model(|model, tokens| {
        let forwards = model.encode(&batch(tokens));
        let reversed: Vec<_> = tokens.iter().rev().cloned().collect();
        let backwards = model.encode(&batch(&reversed));
        let rows = backwards.chunks(model.dim()).rev().flatten().copied().collect::<Vec<_>>();
        assert!(difference(&forwards, &rows) <= ROUNDING);
    });
}

#[test]
fn an_empty_batch_has_no_embeddings() {
    for_each_model(|model, _| assert!(model.encode(&Batch::default()).is_empty()));
}

#[test]
fn without_dropout_forward_equals_encode() {
    for_each_model(|model, tokens| {
        let batch = batch(tokens);
        assert_eq!(model.forward(&batch, DropoutRates::default()).0, model.encode(&batch));
    });
}

#[test]
fn dropout_depends_on_the_key_of_a_text_and_not_on_its_batch() {
    for_each_model(|model, tokens| {
        let dropout = model.dropout();
        assert_eq!(dropout, DropoutRates { hidden: 0.1, attention: 0.1, adapter: 0.0 });
        // The golden texts hold an empty one and long ones.
        let together = model.forward(&batch(tokens), dropout).0;
        assert!(difference(&together, &model.encode(&batch(tokens))) > 0.01, "dropout changes nothing");
        for i in [0, 3, tokens.len() - 1] {
            let row = &together[i * model.dim()..][..model.dim()];
            let alone = |key: u64| {
                let mut alone = Batch::default();
                alone.push(&tokens[i].ids, 0, key);
                model.forward(&alone, dropout).0
            };
            assert!(difference(&alone(i as u64), row) <= ROUNDING, "text {i}");
            assert!(difference(&alone(1000), row) > 1e-3, "text {i}");
        }
    });
}

/// With embeddings of zero and a feed-forward part of zero, dropout after the attention is the only one that could change
/// anything. DistilBERT has none there.
#[test]
fn tokens_that_a_cls_pooled_model_leaves_out_of_its_last_layer_change_nothing() {
    let Some(json) = golden::json("encode.json") else { return };
    let dropout = DropoutRates { hidden: 0.1, attention: 0.1, adapter: 0.0 };
    for name in MODELS {
        let Some(folder) = golden::golden(name) else { return };
        let overrides = Overrides { pooling: Some(Pooling::Cls), ..Overrides::default() };
        let model = load(Cpu::new(), &folder, &overrides);
        let tokens = tokenize(&model, &texts(&json["texts"])[..3], None);
        // A text whose second token is pooled makes the model compute all tokens; its own gradient is zero.
        let run = |beside: Option<&Tokens>| {
            let mut batch = Batch::default();
            tokens.iter().zip(1..).for_each(|(tokens, key)| batch.push(&tokens.ids, 0, key));
            beside.into_iter().for_each(|tokens| batch.push(&tokens.ids, 1, 9));
            let (mut embeddings, saved) = model.forward(&batch, dropout);
            embeddings.truncate(3 * model.dim());
            let mut d_embeddings = seeded(3 * model.dim(), 5);
            d_embeddings.resize(batch.n_texts() * model.dim(), 0.0);
            let mut gradients = model.parameters().zero_gradients(model.ops());
            model.backward(&batch, &saved, &d_embeddings, &mut gradients);
            (embeddings, gradients.list)
        };
        let (first_alone, all) = (run(None), run(Some(&tokens[2])));
        assert!(difference(&first_alone.0, &all.0) <= ROUNDING, "{name}");
        for (i, (first_alone, all)) in first_alone.1.iter().zip(&all.1).enumerate() {
            let largest = all.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let difference = difference(first_alone, all);
            assert!(
                difference <= 10.0 * ROUNDING * largest.max(1.0),
                "{name}, tensor {i}: {difference:e} of {largest:e}"
            );
        }
    }
}

#[test]
fn only_distilbert_drops_nothing_after_the_attention() {
    for (name, is_dropped) in
        [("tiny-bert", true), ("tiny-mpnet", true), ("tiny-roberta", true), ("tiny-distilbert", false)]
    {
        let Some(folder) = golden::golden(name) else { return };
        let mut model = load(Reference::<f64>::new(), &folder, &Overrides::default());
        let is_zeroed = |name: &str| {
            let feed_forward = ["ffn.lin2", ".output.dense"].iter().any(|part| name.contains(part));
            name.starts_with("embeddings.LayerNorm") || feed_forward && !name.contains("attention")
        };
        let mut n_zeroed = 0;
        for param in &mut model.parameters_mut().list {
            if is_zeroed(&param.parts[0].name) {
                param.value.fill(0.0);
                n_zeroed += 1;
            }
        }
        let ops = model.shared_ops();
        model.parameters_mut().repack(&ops);
        assert!(n_zeroed >= 6, "{name}: {n_zeroed}");
        let batch = batch(&tokenize(&model, &["boundary layer"], None));
        let (dropped, _) = model.forward(&batch, DropoutRates { hidden: 0.5, attention: 0.0, adapter: 0.0 });
        assert_eq!(dropped != model.encode(&batch), is_dropped, "{name}");
    }
}

/// The gradient under dropout is that of the masked network: it predicts how a small step changes the loss.
#[test]
fn gradients_under_dropout_are_those_of_the_masked_network() {
    for name in MODELS {
        let Some(folder) = golden::golden(name) else { return };
        let mut model = load(Reference::<f64>::new(), &folder, &Overrides::default());
        let tokens = tokenize(&model, &["boundary layer", "heat transfer in a slip flow", ""], None);
        let batch = batch(&tokens);
        let rates = DropoutRates { hidden: 0.2, attention: 0.3, adapter: 0.0 };
        let (y, saved) = model.forward(&batch, rates);
        let d_y = seeded(y.len(), 5);
        let mut grads = model.parameters().zero_gradients(model.ops());
        model.backward(&batch, &saved, &d_y, &mut grads);
        let loss = |model: &EmbeddingModel<Reference<f64>>| -> f64 {
            let y = model.forward(&batch, rates).0;
            y.iter().zip(&d_y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };

        // One step along the gradient of all tensors at once.
        let ops = model.shared_ops();
        let slope: f64 = grads.list.iter().map(|g| ops.squared_norm(g)).sum();
        let step = 1e-3 / slope.sqrt();
        let mut at = |sign: f64| {
            for (param, grad) in model.parameters_mut().list.iter_mut().zip(&grads.list) {
                for (w, g) in param.value.iter_mut().zip(grad) {
                    *w += sign * step * g;
                }
            }
            model.parameters_mut().repack(&ops);
            loss(&model)
        };
        let ahead = at(1.0);
        let behind = at(-2.0);
        let measured = (ahead - behind) / (2.0 * step);
        assert!((measured / slope - 1.0).abs() < 2e-3, "{name}: measured {measured}, predicted {slope}");
    }
}

/// With `include_prompt: false` the prompt is read but not pooled.
#[test]
fn a_prompt_is_pooled_only_where_the_model_says_so() {
    let Some(folder) = golden::golden("tiny-bert") else { return };
    let copy = crate::folders::copy(&folder);
    let overrides = Overrides { query_prompt: Some("query: ".to_owned()), ..Overrides::default() };
    let included = load(Cpu::new(), copy.path(), &overrides);
    crate::folders::edit(copy.path(), "1_Pooling/config.json", |pooling| pooling["include_prompt"] = false.into());
    let excluded = load(Cpu::new(), copy.path(), &overrides);

    let tokens = |model: &EmbeddingModel<Cpu>, role| model.tokenize(&["flow"], role, None).expect("tokens").remove(0);
    assert_eq!(tokens(&included, Role::Query).prompt_len, 0);
    let prompted = tokens(&excluded, Role::Query);
    assert!(prompted.prompt_len > 1);
    assert_eq!(prompted.ids, tokens(&included, Role::Query).ids);
    assert_eq!(tokens(&excluded, Role::Passage).prompt_len, 0);
    let encode = |model: &EmbeddingModel<Cpu>| model.encode(&batch(&[tokens(model, Role::Query)]));
    assert!(difference(&encode(&included), &encode(&excluded)) > 1e-3);
}
