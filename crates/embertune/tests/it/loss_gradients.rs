//! Losses without values in `losses.json`: against sentence-transformers where it has them (`losses_st.json`, made by
//! `tests/golden/make_losses.py`), and every loss against differences of its own value.

use embertune::loss::{
    Directions, Distance, Groups, Hardness, HardnessMode, InfoNce, Loss, LossOutput, Margin, Negatives, Vectors,
    matryoshka,
};
use embertune_kernels::Ops;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::{assert_close, seeded};
use serde_json::Value;

use crate::golden;

const DIM: usize = 6;
/// Groups of 3, 1, 2 and 3.
const SIZES: [usize; 4] = [3, 1, 2, 3];
const N_PASSAGES: usize = 9;

/// What every loss reads.
#[derive(Clone)]
struct Fixture {
    /// Queries, then passages.
    vectors: Vec<f32>,
    excluded: Vec<bool>,
    scores: Vec<f32>,
    guide: Option<Vec<f32>>,
}

impl Fixture {
    fn new() -> Self {
        let mut excluded = vec![false; SIZES.len() * N_PASSAGES];
        // Query 0 has passage 4, the positive of query 2, for a positive as well; query 3 has passage 1.
        excluded[4] = true;
        excluded[3 * N_PASSAGES + 1] = true;
        Fixture {
            vectors: seeded((SIZES.len() + N_PASSAGES) * DIM, 3),
            excluded,
            scores: vec![2.0, 0.5, -1.0, 1.0, 0.3, 0.3, 1.5, 0.0, -0.5],
            guide: None,
        }
    }

    fn run(&self, judge: &dyn Fn(&Groups<'_>) -> LossOutput) -> LossOutput {
        let split = |vectors| {
            let (queries, passages) = <[f32]>::split_at(vectors, SIZES.len() * DIM);
            Vectors { queries, passages, dim: DIM }
        };
        judge(&Groups {
            vectors: split(&self.vectors),
            group_sizes: &SIZES,
            excluded: &self.excluded,
            scores: &self.scores,
            guide: self.guide.as_deref().map(split),
        })
    }

    /// Compares the gradients with central differences.
    fn check(&self, what: &str, judge: &dyn Fn(&Groups<'_>) -> LossOutput) {
        // Vectors are f32, and so is the step that is taken; h trades its rounding (1e-7 / h) against curvature (h^2).
        const H: f32 = 4e-3;
        const TOLERANCE: f64 = 3e-4;
        let out = self.run(judge);
        let mut largest = 0.0_f64;
        for (i, &analytic) in out.d_queries.iter().chain(&out.d_passages).enumerate() {
            let at = |shift: f32| {
                let mut moved = self.clone();
                moved.vectors[i] += shift;
                (moved.run(judge).loss, f64::from(moved.vectors[i]))
            };
            let ((above, to), (below, from)) = (at(H), at(-H));
            let numeric = (above - below) / (to - from);
            let error = (numeric - f64::from(analytic)).abs();
            assert!(
                error < TOLERANCE * numeric.abs().max(1.0),
                "{what}: gradient {i} is {analytic}, by differences {numeric}"
            );
            largest = largest.max(numeric.abs());
        }
        assert!(largest > 100.0 * TOLERANCE, "{what}: gradients of {largest} at most prove nothing");
    }
}

fn info_nce() -> InfoNce {
    InfoNce::new(Negatives::InBatch, 0.8)
}

/// One of each loss. Margins are such that no pair is close to one.
fn all() -> Vec<(String, Loss)> {
    let mut all = vec![
        ("kl_div".into(), Loss::KlDiv(info_nce())),
        ("m3_kd".into(), Loss::M3Kd(info_nce())),
        ("m3_kd, own group".into(), Loss::M3Kd(InfoNce::new(Negatives::OwnGroup, 0.8))),
        ("distill_kl".into(), Loss::DistillKl { temperature: 0.7 }),
        ("margin_mse".into(), Loss::MarginMse),
        ("triplet".into(), Loss::Triplet { distance: Distance::Cosine, margin: 0.3 }),
        ("triplet, euclidean".into(), Loss::Triplet { distance: Distance::Euclidean, margin: 0.3 }),
        ("cosent".into(), Loss::CoSent { temperature: 0.7 }),
        ("cosine_mse".into(), Loss::CosineMse),
        ("contrastive".into(), Loss::Contrastive { margin: 1.1 }),
        ("online_contrastive".into(), Loss::OnlineContrastive { margin: 1.1 }),
    ];
    for negatives in [Negatives::InBatch, Negatives::OwnGroup] {
        all.push((format!("{negatives:?}"), Loss::InfoNce(InfoNce::new(negatives, 0.8))));
    }
    for directions in [Directions::TwoWay, Directions::Joint, Directions::Gist] {
        all.push((directions.to_string(), Loss::InfoNce(InfoNce { directions, ..info_nce() })));
    }
    all
}

#[test]
fn gradients_are_those_of_the_value() {
    let fixture = Fixture::new();
    for (what, loss) in all() {
        fixture.check(&what, &|groups| loss.judge(groups));
    }
}

#[test]
fn gradients_of_cut_vectors_are_those_of_the_value() {
    let fixture = Fixture::new();
    for (what, loss) in all() {
        for scaled in [true, false] {
            let judge = |groups: &Groups<'_>| matryoshka(&loss, groups, &[(DIM, 0.5), (4, 1.0), (3, 2.0)], |_| scaled);
            fixture.check(&format!("{what}, cut, {scaled}"), &judge);
        }
    }
}

#[test]
fn one_width_is_the_loss_of_vectors_cut_there() {
    let fixture = Fixture::new();
    for (what, loss) in all() {
        let whole = fixture.run(&|groups| loss.judge(groups));
        let same = fixture.run(&|groups| matryoshka(&loss, groups, &[(DIM, 1.0)], |_| false));
        assert_eq!((same.loss, same.d_queries, same.stats), (whole.loss, whole.d_queries, whole.stats), "{what}");
    }
}

#[test]
fn masks_and_guides_leave_gradients_those_of_the_value() {
    let mut fixture = Fixture::new();
    let masked = |fixture: &Fixture, settings: InfoNce| {
        for directions in [Directions::OneWay, Directions::Joint] {
            for loss in [Loss::InfoNce(InfoNce { directions, ..settings }), Loss::KlDiv(settings), Loss::M3Kd(settings)]
            {
                let out = fixture.run(&|groups| loss.judge(groups));
                assert!(out.stats.n_masked_similar > 0 && out.stats.n_masked_known > 0, "{loss:?}: {:?}", out.stats);
                assert!(out.stats.n_negatives > 0);
                fixture.check(&format!("{loss:?}"), &|groups| loss.judge(groups));
            }
        }
    };
    masked(&fixture, InfoNce { mask_margin: Some(0.1), ..info_nce() });
    let guide = seeded((SIZES.len() + N_PASSAGES) * DIM, 8);
    fixture.guide = Some(Reference::<f32>::new().normalize_forward(&guide, DIM));
    for guide_margin in [Margin::Absolute(0.05), Margin::Relative(0.2)] {
        masked(&fixture, InfoNce { guide_margin, ..info_nce() });
    }
}

#[test]
fn derivative_of_the_temperature_is_that_of_the_value() {
    let fixture = Fixture::new();
    let at = |loss: &dyn Fn(f64) -> Loss, temperature: f64| {
        let loss = loss(temperature);
        let dims = [(DIM, 1.0), (3, 0.5)];
        [fixture.run(&|groups| loss.judge(groups)), fixture.run(&|groups| matryoshka(&loss, groups, &dims, |_| true))]
    };
    let hard = Some(Hardness { mode: HardnessMode::AllNegatives, strength: 0.7 });
    let with = |temperature| InfoNce::new(Negatives::InBatch, temperature);
    let losses: [&dyn Fn(f64) -> Loss; 7] = [
        &|t| Loss::InfoNce(with(t)),
        &|t| Loss::InfoNce(InfoNce { directions: Directions::TwoWay, ..with(t) }),
        &|t| Loss::InfoNce(InfoNce { directions: Directions::Joint, ..with(t) }),
        &|t| Loss::InfoNce(InfoNce { hardness: hard, ..with(t) }),
        &|t| Loss::KlDiv(with(t)),
        &|t| Loss::M3Kd(with(t)),
        &|t| Loss::CoSent { temperature: t },
    ];
    for (i, loss) in losses.iter().enumerate() {
        let h = 1e-4;
        let (above, below) = (at(loss, 0.4 * f64::exp(h)), at(loss, 0.4 * f64::exp(-h)));
        for (cut, here) in at(loss, 0.4).iter().enumerate() {
            let numeric = (above[cut].loss - below[cut].loss) / (2.0 * h);
            let analytic = here.stats.d_log_temperature;
            // Gradients are f32.
            assert!((numeric - analytic).abs() < 1e-5 * numeric.abs().max(1.0), "loss {i}: {analytic} {numeric}");
        }
    }
}

#[test]
fn hardness_and_online_contrastive_equal_sentence_transformers() {
    // A float32 program on other sums: as in `losses.rs`.
    const VALUE: f64 = 1e-5;
    const GRADIENT: f64 = 2e-5;
    let Some(json) = golden::json("losses_st.json") else { return };
    let list =
        |value: &Value| -> Vec<f32> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect() };
    let dim = json["dim"].as_u64().unwrap() as usize;
    let ops = Reference::<f32>::new();
    for case in json["cases"].as_array().unwrap() {
        let params = &case["params"];
        let (loss, passages, scores) = match params["hardness_mode"].clone() {
            Value::Null => {
                let loss = Loss::OnlineContrastive { margin: params["margin"].as_f64().unwrap() };
                (loss, list(&json["positives"]), list(&params["labels"]))
            }
            mode => {
                let strength = params["hardness_strength"].as_f64().unwrap();
                let hardness = Some(Hardness { mode: serde_json::from_value(mode).unwrap(), strength });
                let joint = params["directions"] == "joint";
                let directions = if joint { Directions::Joint } else { Directions::OneWay };
                let temperature = params["temperature"].as_f64().unwrap();
                let settings = InfoNce { hardness, directions, ..InfoNce::new(Negatives::InBatch, temperature) };
                (Loss::InfoNce(settings), list(&json["passages"]), vec![])
            }
        };
        let queries = list(&json["queries"]);
        let (unit_q, unit_p) = (ops.normalize_forward(&queries, dim), ops.normalize_forward(&passages, dim));
        let n = queries.len() / dim;
        let n_passages = passages.len() / dim;
        let out = loss.judge(&Groups {
            vectors: Vectors { queries: &unit_q, passages: &unit_p, dim },
            group_sizes: &vec![n_passages / n; n],
            excluded: &vec![false; n * n_passages],
            scores: &scores,
            guide: None,
        });
        println!("{}: {}", case["name"], out.loss);
        assert_close(&[out.loss], &[case["loss"].as_f64().unwrap()], 0.0, VALUE);
        for (d, x, expected) in
            [(&out.d_queries, &queries, &case["d_queries"]), (&out.d_passages, &passages, &case["d_passages"])]
        {
            let expected = list(expected);
            let largest = expected.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
            assert_close(&ops.normalize_backward(d, x, dim), &expected, GRADIENT * f64::from(largest), 0.0);
        }
    }
}
