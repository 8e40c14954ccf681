//! The flags of `embertune mine`: those of the original `mine_hard_neg.py`, those of sentence-transformers' `mine_hard_negatives` by the
//! same names, and a few more. A preset gives all their defaults; each flag changes only what it names.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use embertune::data::Columns;
use embertune::mine::output::Shape;
use embertune::mine::select::Strategy;
use embertune::mine::{Limits, MineSettings, Preset, Ranking, Rule, Window, parse_range};

use super::{EmbeddingArgs, MachineArgs, ModelChangeArgs, RankArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Recommended: the best passages below 95 % of the positive's score, without near-duplicates of positives
  embertune mine --model_name_or_path ./model --input_file train.jsonl --candidate_pool corpus.jsonl \\
      --output_file train.mined.jsonl --preset nv-retriever --review suspects.jsonl

  # As the original: five negatives for each row, from the passages that rank third to tenth among all its passages
  embertune mine --model_name_or_path BAAI/bge-small-en-v1.5 --input_file train.jsonl \\
      --output_file train.mined.jsonl --range_for_sampling 2-10 --negative_number 5

  # Candidates by the model and by words, and triplets for sentence-transformers
  embertune mine --model_name_or_path ./model --input_file train.jsonl --output_file triplets.jsonl \\
      --preset nv-retriever --ranking hybrid --output_format triplet --output_scores False";

/// Arguments of `mine`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct MineArgs {
    /// Rows to find negatives for: JSON lines {"query": str, "pos": [str]}, or any other form that `train` reads
    #[arg(long, value_name = "FILE|FOLDER")]
    pub input_file: PathBuf,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,

    /// Where to write the rows with their negatives, in `neg`; an existing file is replaced. With .gz or .zst at its end it is packed
    #[arg(long, value_name = "FILE")]
    pub output_file: PathBuf,

    /// Candidates: JSON lines {"context": [str]} or {"text": str} [default: all positives and negatives of the input]
    #[arg(long, value_name = "FILE")]
    pub candidate_pool: Option<PathBuf>,

    /// Vectors of the queries, in the order of --input_file, as .npy or .safetensors; no model is needed then
    #[arg(long, value_name = "FILE", requires = "passage_vectors")]
    pub query_vectors: Option<PathBuf>,

    /// Vectors of the candidates, in the order of --candidate_pool; read a part at a time, so they may be larger than memory
    #[arg(long, value_name = "FILE", requires_all = ["query_vectors", "candidate_pool"])]
    pub passage_vectors: Option<PathBuf>,

    /// Suspected right answers: written to be looked at, with "verdict": "". Put "positive" or "negative" there and run again:
    /// positives join `pos`, negatives may be mined, the rest stays out
    #[arg(long, value_name = "FILE")]
    pub review: Option<PathBuf>,

    /// What a line of the output is
    #[arg(long, value_name = "SHAPE", default_value = "original")]
    pub output_format: ShapeArg,

    /// Write scores beside the texts: pos_scores and neg_scores, or what sentence-transformers has in their place
    /// [default: True; with the preset original False]
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", value_name = "True|False")]
    pub output_scores: Option<bool>,

    /// Defaults of all the flags below; nv-retriever is recommended for new work
    #[arg(long, value_name = "PRESET", default_value = "original", help_heading = "Mining")]
    pub preset: PresetArg,

    /// Ranks to take negatives from, counted before known positives are taken out: 2-10 leaves out the best two candidates and all
    /// beyond the tenth; higher ranks are easier [default: 10-210 with the preset original]
    #[arg(long, value_name = "FROM-TO", value_parser = range, help_heading = "Mining",
          conflicts_with_all = ["range_min", "range_max"])]
    pub range_for_sampling: Option<Range<usize>>,

    /// Negatives per row [default: 15 with the preset original, 7 with nv-retriever, 3 with sentence-transformers]
    #[arg(long, alias = "num_negatives", value_name = "N", help_heading = "Mining")]
    pub negative_number: Option<usize>,

    /// What ranks the candidates of a query
    #[arg(long, value_name = "RANKING", default_value = "dense", help_heading = "Mining")]
    pub ranking: RankingArg,

    /// Which candidates of the range are taken [default: random with the preset original, else top]
    #[arg(long, alias = "sampling_strategy", value_name = "STRATEGY", help_heading = "Mining")]
    pub strategy: Option<StrategyArg>,

    /// How many of the best candidates are passed over, counted after all rules
    #[arg(long, value_name = "N", help_heading = "Mining")]
    pub range_min: Option<usize>,

    /// Where the range ends, counted after all rules [default: 200 with the preset nv-retriever, else enough for the negatives]
    #[arg(long, value_name = "N", help_heading = "Mining")]
    pub range_max: Option<usize>,

    /// Highest score of a negative
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Mining")]
    pub max_score: Option<f32>,

    /// Lowest score of a negative
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Mining")]
    pub min_score: Option<f32>,

    /// How far a negative scores below the query's lowest positive, at least
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Mining")]
    pub absolute_margin: Option<f32>,

    /// The same as a share of the positive's score: 0.05 takes only what scores at most 95 % of it [default: 0.05 with the preset
    /// nv-retriever]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, help_heading = "Mining")]
    pub relative_margin: Option<f32>,

    /// Leave out candidates that have nearly the words of a positive [default: True with the preset nv-retriever]
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", value_name = "True|False",
          help_heading = "Mining")]
    pub exclude_near_duplicates: Option<bool>,

    /// Fill up with random candidates of the whole pool where too few are left, instead of writing fewer [default: True with the
    /// preset original]
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", value_name = "True|False",
          help_heading = "Mining")]
    pub fill_up: Option<bool>,

    /// Seed of the sampling: same input, same seed, same file
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Mining")]
    pub seed: u64,

    /// Search on the GPU (see --device), where there is one: finds what the CPU finds
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Mining", action = clap::ArgAction::Set)]
    pub use_gpu_for_searching: bool,

    /// Folder of the model, or its name on the Hugging Face hub; not needed with --ranking bm25, nor with vectors made elsewhere
    #[arg(long, alias = "model_name", value_name = "FOLDER|NAME", help_heading = "Model")]
    pub model_name_or_path: Option<String>,

    #[command(flatten)]
    pub model_changes: ModelChangeArgs,

    #[command(flatten)]
    pub embedding: EmbeddingArgs,

    #[command(flatten)]
    pub machine: MachineArgs,

    #[command(flatten)]
    pub ranks: RankArgs,
}

/// `--preset`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PresetArg {
    /// 15 at random from ranks 10 to 210, filled up at random: mine_hard_neg.py
    Original,
    /// The best 7 below 95 % of the positive's score, near-duplicates of positives left out
    NvRetriever,
    /// The best 3, no limits: the defaults of mine_hard_negatives
    SentenceTransformers,
}

/// `--ranking`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RankingArg {
    /// The model's vectors, or those of --query_vectors and --passage_vectors
    Dense,
    /// Words: BM25. Needs no model
    Bm25,
    /// Both, by reciprocal rank fusion; limits are about the vectors' scores
    Hybrid,
}

/// `--strategy`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StrategyArg {
    /// The best
    Top,
    /// Any, drawn with --seed
    Random,
    /// Evenly from the best to the worst
    Spread,
}

/// `--output_format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ShapeArg {
    /// {"query", "pos", "neg"} and the row's other fields
    Original,
    /// {"query", "positive", "negative"}
    Triplet,
    /// {"query", "positive", "negative_1", ...}
    NTuple,
    /// {"query", "passage", "label"}
    LabeledPair,
}

impl From<ShapeArg> for Shape {
    fn from(shape: ShapeArg) -> Shape {
        match shape {
            ShapeArg::Original => Shape::Original,
            ShapeArg::Triplet => Shape::Triplet,
            ShapeArg::NTuple => Shape::NTuple,
            ShapeArg::LabeledPair => Shape::LabeledPair,
        }
    }
}

impl MineArgs {
    /// The library's settings: the preset's, changed by what was given.
    pub fn settings(&self) -> MineSettings {
        let preset = match self.preset {
            PresetArg::Original => Preset::Original,
            PresetArg::NvRetriever => Preset::NvRetriever,
            PresetArg::SentenceTransformers => Preset::SentenceTransformers,
        };
        let MineSettings { rule, n_negatives, scores, .. } = preset.settings();
        MineSettings {
            rule: self.rule(rule),
            n_negatives: self.negative_number.unwrap_or(n_negatives),
            ranking: match self.ranking {
                RankingArg::Dense => Ranking::Dense,
                RankingArg::Bm25 => Ranking::Bm25,
                RankingArg::Hybrid => Ranking::Hybrid,
            },
            scores: self.output_scores.unwrap_or(scores),
            seed: self.seed,
            batch_size: self.embedding.batch_size,
        }
    }

    fn rule(&self, rule: Rule) -> Rule {
        let window = match (&self.range_for_sampling, self.range_min, self.range_max, rule.window) {
            (Some(range), ..) => Window::Ranks(range.clone()),
            (None, None, None, window) => window,
            (None, min, max, Window::Ranks(_)) => Window::Survivors { min: min.unwrap_or(0), max },
            (None, min, max, Window::Survivors { min: preset_min, max: preset_max }) => {
                Window::Survivors { min: min.unwrap_or(preset_min), max: max.or(preset_max) }
            }
        };
        let limits = Limits {
            max_score: self.max_score.or(rule.limits.max_score),
            min_score: self.min_score.or(rule.limits.min_score),
            absolute_margin: self.absolute_margin.or(rule.limits.absolute_margin),
            relative_margin: self.relative_margin.or(rule.limits.relative_margin),
        };
        let strategy = self.strategy.map_or(rule.strategy, |strategy| match strategy {
            StrategyArg::Top => Strategy::Top,
            StrategyArg::Random => Strategy::Random,
            StrategyArg::Spread => Strategy::Spread,
        });
        Rule {
            window,
            limits,
            strategy,
            exclude_near_duplicates: self.exclude_near_duplicates.unwrap_or(rule.exclude_near_duplicates),
            fill_up: self.fill_up.unwrap_or(rule.fill_up),
        }
    }
}

fn range(text: &str) -> Result<Range<usize>, String> {
    parse_range(text).map_err(|error| error.to_string())
}
