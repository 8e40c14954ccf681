//! A comparison in one sentence, and conditions on it for continuous integration.

use std::fmt;
use std::str::FromStr;

use super::comparison::{Comparison, SetComparison};
use super::metrics::Measure;
use super::paired::{Difference, Finding};
use crate::error::{Error, Result};

/// Beyond so many queries a difference is too small to look for; the verdict then says what could have been seen.
const MOST_QUERIES: u64 = 100_000;

impl Comparison {
    /// The verdict of the metric that decides, and the probes on which it fell.
    pub fn verdict(&self) -> String {
        let [test, probes @ ..] = &self.sets[..] else { return String::new() };
        sentence(self.metric, test.main()) + &about_probes(self.metric, probes)
    }
}

fn sentence(measure: Measure, found: &Difference) -> String {
    let n = thousands(found.n as u64);
    let change = change(found);
    match found.finding {
        Finding::Same => format!("no difference: {measure} is the same for each of {n} queries"),
        Finding::Better | Finding::Worse => {
            let word = if found.finding == Finding::Better { "better" } else { "worse" };
            format!("{word}: {measure} {change} on {n} held-out queries; {} won, {} lost", found.won, found.lost)
        }
        Finding::NotShown => {
            let wanted = match found.n_needed {
                Some(needed) if needed <= MOST_QUERIES => {
                    format!("about {} are needed for one of this size", thousands(rounded(needed)))
                }
                _ => format!("one of {:.3} would probably show", found.detectable),
            };
            format!("no difference can be shown with {n} queries: {measure} {change}; {wanted}")
        }
    }
}

fn about_probes(measure: Measure, probes: &[SetComparison]) -> String {
    let (worse, fine): (Vec<_>, Vec<_>) = probes.iter().partition(|probe| probe.main().finding == Finding::Worse);
    if !worse.is_empty() {
        let losses = worse.iter().map(|probe| format!("`{}`: {measure} {}", probe.name, change(probe.main())));
        return format!(", but worse on the probe {}", losses.collect::<Vec<_>>().join(" and on "));
    }
    let lows = fine.iter().filter_map(|probe| Some((probe.main().interval?.0, probe)));
    let lowest = lows.filter(|(low, _)| *low < 0.0).min_by(|a, b| a.0.total_cmp(&b.0));
    match (fine.len(), lowest) {
        (0, _) => String::new(),
        (1, None) => format!(", and no loss on the probe `{}`", fine[0].name),
        (1, Some((low, probe))) => {
            format!(", and no loss shown on the probe `{}` (its interval begins at {low:+.3})", probe.name)
        }
        (n, None) => format!(", and no loss on {n} probes"),
        (n, Some((low, probe))) => {
            format!(", and no loss shown on {n} probes (the lowest interval, of `{}`, begins at {low:+.3})", probe.name)
        }
    }
}

/// `+0.071 [+0.052, +0.090]`.
fn change(found: &Difference) -> String {
    match found.interval {
        Some((low, high)) => format!("{:+.3} [{low:+.3}, {high:+.3}]", found.difference),
        None => format!("{:+.3}", found.difference),
    }
}

/// Two digits are more than an estimate of a number of queries knows.
fn rounded(n: u64) -> u64 {
    let unit = 10_u64.pow(n.max(1).ilog10().saturating_sub(1));
    n.div_ceil(unit) * unit
}

/// `12,345`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A condition on a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// The second model is better on the test set.
    Better,
    /// The second model is worse on no set.
    NotWorse,
    /// A metric, or where `of_difference` the difference of it, is at least so much.
    AtLeast { set: Option<String>, measure: Measure, of_difference: bool, bound: f64 },
}

impl Requirement {
    /// The metric that has to be computed for it.
    pub fn measure(&self) -> Option<Measure> {
        match self.kind {
            Kind::AtLeast { measure, .. } => Some(measure),
            Kind::Better | Kind::NotWorse => None,
        }
    }

    /// What keeps the comparison from meeting it, `None` where it does.
    ///
    /// # Errors
    /// A set that is not among those compared, or a metric that was not computed.
    pub fn unmet(&self, comparison: &Comparison) -> Result<Option<String>> {
        let Requirement { text, kind } = self;
        let found = match kind {
            Kind::Better => {
                let finding = comparison.sets[0].main().finding;
                (finding != Finding::Better).then(|| comparison.verdict())
            }
            Kind::NotWorse => {
                let worse = comparison.sets.iter().any(|set| set.main().finding == Finding::Worse);
                worse.then(|| comparison.verdict())
            }
            Kind::AtLeast { set, measure, of_difference, bound } => {
                let found = self.look_up(comparison, set.as_deref(), *measure)?;
                let (what, value) =
                    if *of_difference { ("the difference is", found.difference) } else { ("it is", found.tuned) };
                let sign = if *of_difference && value >= 0.0 { "+" } else { "" };
                // Rounding of sums must not fail a bound that is met exactly.
                (value < bound - 1e-12).then(|| format!("{what} {sign}{value:.4}"))
            }
        };
        Ok(found.map(|found| format!("requirement `{text}` is not met: {found}")))
    }

    fn look_up<'a>(&self, comparison: &'a Comparison, set: Option<&str>, measure: Measure) -> Result<&'a Difference> {
        let found = match set {
            None => comparison.sets.first(),
            Some(name) => comparison.sets.iter().find(|set| set.name == name),
        };
        let found = found.ok_or_else(|| {
            let names = comparison.sets.iter().map(|set| format!("`{}`", set.name)).collect::<Vec<_>>().join(", ");
            Error::Setting {
                problem: format!("`--require {}`: there is no such test set; there are {names}", self.text),
                hint: Some("without a name the requirement is about the first test set".into()),
            }
        })?;
        let found = found.measures.iter().find(|known| known.measure == measure).ok_or_else(|| Error::Setting {
            problem: format!("`--require {}`: {measure} was not computed", self.text),
            hint: None,
        })?;
        Ok(&found.difference)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Requirement {
    type Err = String;

    /// `better`, `not_worse`, `mrr@10>=+0.02` (a difference: it has a sign), `mrr@10>=0.5` (the second model's value), or with the
    /// name of a set before it, `scifact:mrr@10>=-0.01`.
    fn from_str(text: &str) -> std::result::Result<Requirement, String> {
        let kind = match text.trim() {
            "better" => Kind::Better,
            "not_worse" => Kind::NotWorse,
            condition => {
                let Some((left, bound)) = condition.split_once(">=") else {
                    return Err("expected better, not_worse, or a metric and a bound, like mrr@10>=+0.02".into());
                };
                let (set, measure) = match left.rsplit_once(':') {
                    Some((set, measure)) => (Some(set.trim().to_string()), measure),
                    None => (None, left),
                };
                let bound = bound.trim();
                let value: f64 = bound.parse().map_err(|_| format!("`{bound}` is no number, like +0.02"))?;
                if !(-1.0..=1.0).contains(&value) {
                    return Err(format!("`{bound}` is not within -1 and 1, as metrics and their differences are"));
                }
                let of_difference = bound.starts_with(['+', '-']);
                Kind::AtLeast { set, measure: measure.parse()?, of_difference, bound: value }
            }
        };
        Ok(Requirement { text: text.trim().into(), kind })
    }
}
