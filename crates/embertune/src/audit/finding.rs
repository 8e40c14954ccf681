//! What an audit can find: each kind with what it means and what to do about it.

use serde::Serialize;

/// Examples that a finding keeps.
const EXAMPLES: usize = 3;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Likely to cost quality, or to mislead.
    Warning,
    /// Wrong: the labels contradict each other, or the numbers will mean nothing.
    Error,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Test queries that stand in the training data.
    LeakedQueries,
    /// Test queries with nearly the words of a training query.
    NearLeakedQueries,
    /// Positives of test queries that are positives in training.
    SharedAnswers,
    /// Negatives that are positives of the same row.
    ContradictionsInRow,
    /// Negatives that are positives of the same query in another row.
    ContradictionsAcrossRows,
    /// Rows whose query is one of their positives.
    QueryIsPositive,
    /// Negatives that are the query itself.
    QueryIsNegative,
    /// Negatives with nearly the words of a positive of their query.
    NearNegatives,
    /// Rows that say what an earlier row says.
    RepeatedRows,
    /// Rows with the query of an earlier row, and other passages.
    RepeatedQueries,
    /// Queries with nearly the words of another query.
    NearQueries,
    /// Passages that stand in their row twice.
    RepeatedInRow,
    /// Passages with nearly the words of another passage.
    NearPassages,
    /// Positives of more than one query.
    SharedPositives,
    /// Positives that are not in the candidate pool.
    MissingFromPool,
    /// Rows that may meet a right answer as a negative of their batch.
    InBatchFalseNegatives,
    /// Queries that lose their end.
    TruncatedQueries,
    /// Passages that lose their end.
    TruncatedPassages,
    /// Rows whose query and positive are written in different scripts.
    CrossScript,
    /// Positives that the model does not rank among the first 100 candidates.
    BeyondRank100,
    /// Negatives that the model scores above the lowest positive of their row.
    NegativesAbovePositive,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 21] = [
        Kind::LeakedQueries,
        Kind::NearLeakedQueries,
        Kind::SharedAnswers,
        Kind::ContradictionsInRow,
        Kind::ContradictionsAcrossRows,
        Kind::QueryIsPositive,
        Kind::QueryIsNegative,
        Kind::NearNegatives,
        Kind::RepeatedRows,
        Kind::RepeatedQueries,
        Kind::NearQueries,
        Kind::RepeatedInRow,
        Kind::NearPassages,
        Kind::SharedPositives,
        Kind::MissingFromPool,
        Kind::InBatchFalseNegatives,
        Kind::TruncatedQueries,
        Kind::TruncatedPassages,
        Kind::CrossScript,
        Kind::BeyondRank100,
        Kind::NegativesAbovePositive,
    ];

    /// What was counted, as a heading.
    pub fn title(self) -> &'static str {
        self.words().0
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        self.words().1
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        self.words().2
    }

    /// What a repair does about it; `None` where that is for a person to decide.
    pub fn repair(self) -> Option<&'static str> {
        Some(match self {
            Kind::LeakedQueries | Kind::NearLeakedQueries => "leaves these rows out of the training data",
            Kind::QueryIsPositive => "leaves the positive out, and the row where it has no other",
            Kind::ContradictionsInRow | Kind::ContradictionsAcrossRows | Kind::QueryIsNegative => {
                "leaves the negative out"
            }
            Kind::RepeatedInRow => "keeps the first of them",
            Kind::RepeatedRows => "keeps the first of them",
            _ => return None,
        })
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::LeakedQueries => (
                "Test queries that are in the training data",
                "A model is good at what it was trained on, so its numbers on these queries say nothing about new ones.",
                "Evaluate on queries that are not trained on; `embertune split` makes such a file.",
            ),
            Kind::NearLeakedQueries => (
                "Test queries that are nearly a training query",
                "They have the same words but for a few, so they are hardly new to the model.",
                "Leave them out of one of the files.",
            ),
            Kind::SharedAnswers => (
                "Test answers that are answers in training, too",
                "The numbers say how well the model finds passages that it was trained to find; new passages may be harder.",
                "Fine where the passages stay the same in use; else split the rows by passage.",
            ),
            Kind::ContradictionsInRow => (
                "Negatives that are a positive of their row",
                "The row says that the passage answers the query and that it does not.",
                "Remove the negative, or the positive if it is the one that is wrong.",
            ),
            Kind::ContradictionsAcrossRows => (
                "Negatives that another row of the query has as a positive",
                "One row says that the passage answers the query, another that it does not.",
                "Remove the negative, or the positive if it is the one that is wrong.",
            ),
            Kind::QueryIsPositive => (
                "Rows whose query is its own positive",
                "Two equal texts have the same vector: there is nothing to learn, and the row looks like a success.",
                "Remove the positive; if there are many, check which column became which field.",
            ),
            Kind::QueryIsNegative => (
                "Negatives that are the query itself",
                "A text cannot be pushed away from itself; training leaves such negatives out, other programs do not.",
                "Remove the negative.",
            ),
            Kind::NearNegatives => (
                "Negatives that are nearly a positive of their query",
                "They have the same words but for a few, so they probably answer the query as the positive does.",
                "Mine with `--exclude_near_duplicates True`, or remove them.",
            ),
            Kind::RepeatedRows => (
                "Rows that repeat an earlier row",
                "They count double in training, and in one batch they are no use to each other.",
                "Remove the copies.",
            ),
            Kind::RepeatedQueries => (
                "Rows with the query of an earlier row, and other passages",
                "Their positives count together: none is a negative of that query, in training, mining or evaluation.",
                "Nothing, if that is how the data is meant.",
            ),
            Kind::NearQueries => (
                "Queries that are nearly another query",
                "They ask the same in nearly the same words. Where they have other positives, each query may meet those of the other \
                 as negatives.",
                "Give them the same positives, or keep one of them; `embertune split` keeps them on one side.",
            ),
            Kind::RepeatedInRow => (
                "Passages that stand in their row twice",
                "A negative that is there twice counts double, and a positive is drawn twice as often.",
                "Remove the copies.",
            ),
            Kind::NearPassages => (
                "Passages that are nearly another passage",
                "Where one of them is marked as an answer, the other answers as well, but counts as wrong.",
                "Keep one of them, or mine with `--exclude_near_duplicates True`, which spares the positives' copies.",
            ),
            Kind::SharedPositives => (
                "Positives that answer several queries",
                "In a batch the positive of one row is an answer to the other; such pairs are masked in training.",
                "Nothing, unless one passage answers so many queries that it cannot be specific to them.",
            ),
            Kind::MissingFromPool => (
                "Positives that are not in the candidate pool",
                "No search can find them: in an evaluation each of them is a miss, whatever the model does.",
                "Add them to the pool, or look for differences in how the two files spell the passages.",
            ),
            Kind::InBatchFalseNegatives => (
                "Rows that may meet right answers as negatives",
                "The passages of other rows in the batch serve as negatives, and some of them answer the query: they are near \
                 copies of a positive, or answers of a query that asks the same. Masking finds equal texts alone.",
                "Merge the copies; or train with `--guide_model`, with smaller batches, or with `--use_inbatch_neg False`.",
            ),
            Kind::TruncatedQueries => (
                "Queries that are cut",
                "The model does not read their ends, in training and later.",
                "Raise `--query_max_len`, as far as the model reads.",
            ),
            Kind::TruncatedPassages => (
                "Passages that are cut",
                "The model does not read their ends. If the answer stands there, the positive is no answer.",
                "Raise `--passage_max_len`, as far as the model reads, or split long passages.",
            ),
            Kind::CrossScript => (
                "Rows whose query and positive are in different scripts",
                "Only a model that was trained on both languages can bring them together.",
                "Take a multilingual model, or look whether these rows belong into the data.",
            ),
            Kind::BeyondRank100 => (
                "Positives that the model ranks beyond the first 100",
                "Either they do not answer their query, or the model knows little of the matter.",
                "Read the examples: wrong labels should go, hard ones are what training is for.",
            ),
            Kind::NegativesAbovePositive => (
                "Negatives that the model scores above the positive",
                "They are very hard negatives, or right answers that nobody marked.",
                "Read the examples; if many are answers, mine again with `--preset nv-retriever`.",
            ),
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// How many, at least 1.
    pub n: usize,
    /// Of how many.
    pub of: usize,
    /// `n / of`.
    pub share: f64,
    /// What was counted, as a heading.
    pub title: &'static str,
    /// What is special about these, where there is something to say: one sentence.
    pub detail: Option<String>,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    /// What a repair does about it.
    pub repair: Option<&'static str>,
    /// The first of them.
    pub examples: Vec<Shown>,
}

/// An example of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Where it is, and where its like is: `train.jsonl:812`.
    pub places: Vec<String>,
    /// The texts that it is about. Empty where texts are left out.
    pub texts: Vec<String>,
}

impl Shown {
    /// An example.
    pub fn new<P: Into<String>, T: Into<String>>(
        places: impl IntoIterator<Item = P>,
        texts: impl IntoIterator<Item = T>,
    ) -> Shown {
        let mut shown = Shown { places: Vec::new(), texts: texts.into_iter().map(Into::into).collect() };
        for place in places.into_iter().map(Into::into) {
            if !shown.places.contains(&place) {
                shown.places.push(place);
            }
        }
        shown
    }
}

/// A count with the first examples.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many.
    pub n: usize,
    examples: Vec<Shown>,
}

impl Tally {
    /// One more. `example` is called for the first ones alone.
    pub fn add(&mut self, example: impl FnOnce() -> Shown) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
        self.n += 1;
    }

    /// The finding, unless nothing was counted.
    pub fn finding(self, kind: Kind, severity: Severity, of: usize, detail: Option<String>) -> Option<Finding> {
        (self.n > 0).then(|| Finding {
            kind,
            severity,
            n: self.n,
            of,
            share: self.n as f64 / of.max(1) as f64,
            title: kind.title(),
            detail,
            meaning: kind.meaning(),
            advice: kind.advice(),
            repair: kind.repair(),
            examples: self.examples,
        })
    }

    /// The share of `of`.
    pub fn share(&self, of: usize) -> f64 {
        self.n as f64 / of.max(1) as f64
    }
}
