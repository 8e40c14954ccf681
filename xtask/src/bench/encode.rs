//! Encoding passages against sentence-transformers and onnxruntime, and how fast the program starts.

use std::path::Path;

use serde_json::{Value, json};

use super::data::{passages, text};
use super::options::{MINILM, Model, Options};
use super::process::{Peer, number};
use super::record::{Record, Role, Sample, Work};
use super::setup::Setup;

/// Passages of each set, where the options don't say.
const PASSAGES: usize = 2000;
/// Passages on which the peers' batch size and type are chosen.
const TRIED: usize = 256;
/// How far unit vectors of the same text may be apart: rounding in f32; 8 bits of precision in bf16.
const FP32_TOLERANCE: f64 = 1e-4;
const BF16_TOLERANCE: f64 = 6e-2;

pub fn bench(setup: &Setup, options: &Options, record: &mut Record) -> Result<(), String> {
    let parts = &["passages", "start"];
    if options.wants("start", parts) {
        start(setup, options, record)?;
    }
    if options.wants("passages", parts) {
        let mut peer = setup.runner.peer(options.threads)?;
        for &model in &options.models {
            for set in &options.sets {
                Encoding { setup, options, model, set }.bench(&mut peer, record)?;
            }
        }
    }
    Ok(())
}

/// The time from the start of the process to its end: `--help`, and one short text through MiniLM, most of which is loading.
fn start(setup: &Setup, options: &Options, record: &mut Record) -> Result<(), String> {
    let hello = setup.cache.join("data/hello.txt");
    std::fs::write(&hello, "hello\n").map_err(|error| format!("{}: {error}", hello.display()))?;
    let out = setup.cache.join("out/hello.npy");
    let one = ["embed".into(), "--model_name_or_path".into(), text(&setup.model(MINILM)), "--input_file".into()];
    let one = one.into_iter().chain([text(&hello), "--output_file".into(), text(&out)]).collect();
    for (what, model, arguments) in [("embertune --help", "", vec!["--help".into()]), ("embed one text", "minilm", one)]
    {
        let work =
            Work { bench: options.kind.name().into(), what: what.into(), model: model.into(), ..Work::default() };
        // The first run reads the program from disk.
        setup.runner.run(&setup.embertune, &arguments, options.threads)?;
        for run in 1..=4 * options.pairs {
            let (took, _) = setup.runner.run(&setup.embertune, &arguments, options.threads)?;
            record.add(&work, run, Sample::new(Role::Alone, "Embertune", took.seconds, "s"))?;
        }
    }
    Ok(())
}

/// One model on one set.
struct Encoding<'a> {
    setup: &'a Setup,
    options: &'a Options,
    model: Model,
    set: &'a str,
}

impl Encoding<'_> {
    fn bench(&self, peer: &mut Peer, record: &mut Record) -> Result<(), String> {
        let asked = self.options.passages.unwrap_or(if self.options.quick { 64 } else { PASSAGES });
        let texts = passages(self.setup, self.set, asked)?;
        let n = super::data::read_lines(&texts)?.len();
        let (model, texts) = (text(&self.setup.model(self.model)), text(&texts));
        let [ours, theirs, onnx] =
            ["ours", "theirs", "onnx"].map(|side| self.setup.cache.join(format!("out/{side}.npy")));
        let exported = text(&self.setup.cache.join(format!("onnx/{}.onnx", self.model.folder)));
        let tried = TRIED.min(n);

        let best = peer.ask(json!({"do": "best_encode", "model": model, "texts": texts, "first": tried}))?;
        eprintln!("bench: sentence-transformers on {tried} passages: {}", best["tried"]);
        let (dtype, batch) = (best["dtype"].as_str().unwrap_or("f32"), best["batch"].clone());
        let encode = |dtype: &str, batch: &Value| json!({"do": "encode", "model": model, "texts": texts, "dtype": dtype, "batch": batch, "out": text(&theirs)});
        let onnx_encode = |batch: Value| {
            json!({"do": "encode_onnx", "model": model, "exported": exported, "texts": texts, "first": tried, "batch": batch,
                   "out": text(&onnx)})
        };
        let onnx_batch = peer.ask(onnx_encode(Value::Null))?["batch"].clone();

        let precisions = match self.options.precisions.as_slice() {
            [] => vec!["auto"],
            asked => asked.to_vec(),
        };
        let work = |precision: &str| Work {
            bench: self.options.kind.name().into(),
            what: format!("encode {n} passages"),
            model: self.model.name.into(),
            set: self.set.into(),
            settings: precision.into(),
        };
        peer.ask(encode("f32", &batch))?;
        peer.ask(onnx_encode(onnx_batch.clone()))?;
        self.same(peer, &theirs, &onnx, FP32_TOLERANCE, &mut |_| Ok(()))?;
        for precision in ["fp32"].into_iter().chain(precisions.iter().copied().filter(|&p| p != "fp32")) {
            self.embertune(precision, &texts, &ours)?;
            // `auto` may be either; what f32 gives is checked by itself.
            let tolerance = if precision == "fp32" { FP32_TOLERANCE } else { BF16_TOLERANCE };
            self.same(peer, &ours, &theirs, tolerance, &mut |distance| {
                let what = "largest distance of two unit vectors";
                record.add(&work(precision), 0, Sample::new(Role::Check, "sentence-transformers f32", distance, what))
            })?;
        }

        let st_side = format!("sentence-transformers {dtype} batch {batch}");
        let onnx_side = format!("onnxruntime f32 batch {onnx_batch}");
        for pair in 1..=self.options.pairs {
            for &precision in &precisions {
                let mut add = |role, side: &str, seconds: f64| {
                    record.add(&work(precision), pair, Sample::new(role, side, n as f64 / seconds, "passages/s"))
                };
                add(Role::Subject, "Embertune", self.embertune(precision, &texts, &ours)?)?;
                add(Role::Baseline, &st_side, number(&peer.ask(encode(dtype, &batch))?, "seconds")?)?;
                add(Role::Baseline, &onnx_side, number(&peer.ask(onnx_encode(onnx_batch.clone()))?, "seconds")?)?;
            }
        }
        Ok(())
    }

    /// Seconds of the whole process: loading the model and writing the vectors count on our side alone.
    fn embertune(&self, precision: &str, texts: &str, out: &Path) -> Result<f64, String> {
        let mut arguments: Vec<String> = vec!["embed".into()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_string(), value]);
        add("--model_name_or_path", text(&self.setup.model(self.model)));
        add("--input_file", texts.into());
        add("--output_file", text(out));
        add("--precision", precision.into());
        add("--threads", self.options.threads.to_string());
        Ok(self.setup.runner.run(&self.setup.embertune, &arguments, self.options.threads)?.0.seconds)
    }

    /// The vectors in two files are the same.
    fn same(
        &self,
        peer: &mut Peer,
        a: &Path,
        b: &Path,
        tolerance: f64,
        say: &mut dyn FnMut(f64) -> Result<(), String>,
    ) -> Result<(), String> {
        let distance = number(&peer.ask(json!({"do": "compare_vectors", "a": text(a), "b": text(b)}))?, "distance")?;
        say(distance)?;
        // Not a number is not the same, either.
        if distance <= tolerance {
            return Ok(());
        }
        Err(format!(
            "{} on {}: vectors in {} and {} are up to {distance:.1e} apart, {tolerance:.1e} is allowed",
            self.model.name,
            self.set,
            a.display(),
            b.display()
        ))
    }
}
