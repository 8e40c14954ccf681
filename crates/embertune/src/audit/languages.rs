//! Which scripts and languages the texts are in.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::Numbered;
use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::Texts;
use crate::eval::languages::language;
use crate::eval::words::script;
use crate::random::{Shuffle, key};

/// Languages are guessed for so many texts of a role, drawn at random: it takes the longest of all checks, and shares of one percent are
/// close enough.
const LOOKED_AT: usize = 2000;
/// Separates this use of a seed from others.
const SAMPLE: u64 = 0x6c61_6e67;

/// A name and how many texts it is the name of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// A script, or a language.
    pub name: String,
    /// Number of texts.
    pub n: usize,
}

/// What the texts of a role are written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mix {
    /// The script of most letters of each text, most frequent first.
    pub scripts: Vec<Count>,
    /// The language of a sample of the texts, most frequent first; `unsure` where a text is too short or too mixed to tell.
    pub languages: Vec<Count>,
}

/// The script of each text.
pub fn scripts(texts: &Texts<'_>) -> Vec<&'static str> {
    texts.list.par_iter().map(|text| script(text)).collect()
}

/// The mix of some texts, whose scripts are among those of all.
pub fn mix(texts: &Texts<'_>, scripts: &[&'static str], numbers: &[u32], seed: u64) -> Mix {
    let scripts: Vec<_> = numbers.iter().map(|&number| scripts[number as usize]).collect();
    let sample: Vec<_> = Shuffle::new(numbers.len(), key(&[SAMPLE, seed])).take(LOOKED_AT).collect();
    let languages: Vec<_> =
        sample.par_iter().map(|&at| language(texts.list[numbers[at] as usize]).unwrap_or("unsure")).collect();
    Mix { scripts: counts(scripts), languages: counts(languages) }
}

fn counts(names: Vec<&'static str>) -> Vec<Count> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().map(|(name, n)| Count { name: name.into(), n }).collect();
    counts.sort_unstable_by(|a, b| b.n.cmp(&a.n).then_with(|| a.name.cmp(&b.name)));
    counts
}

/// Rows whose query has no letter of the script that any of their positives is in.
pub fn cross_script(data: &Numbered<'_>, texts: &Texts<'_>, scripts: &[&'static str]) -> Option<Finding> {
    let mut tally = Tally::default();
    for (i, row) in data.rows.iter().enumerate() {
        let query = texts.list[row.query as usize];
        // A name in Latin letters may be most of a Chinese query.
        let is_other = |&positive: &u32| {
            let name = scripts[positive as usize];
            name != "none"
                && name != scripts[row.query as usize]
                && !query.chars().any(|c| plain(script(c.encode_utf8(&mut [0; 4]))) == plain(name))
        };
        if scripts[row.query as usize] != "none" && row.positives.iter().all(is_other) {
            tally.add(|| {
                let shown = [row.query, row.positives[0]].map(|number| texts.list[number as usize]);
                Shown::new([data.place(i)], shown)
            });
        }
    }
    tally.finding(Kind::CrossScript, Severity::Info, data.rows.len(), None)
}

/// Japanese is written in both.
fn plain(script: &'static str) -> &'static str {
    if script == "Kana" { "Han" } else { script }
}
