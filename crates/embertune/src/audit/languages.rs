//! Which scripts and languages the texts are in.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::Numbered;
use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::lengths::Placed;
use super::texts::{BLOCK, Texts};
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
pub struct Scripts {
    names: Vec<&'static str>,
    /// Places in `names`.
    of: Vec<u8>,
}

impl Scripts {
    fn of(&self, text: u32) -> &'static str {
        self.names[self.of[text as usize] as usize]
    }
}

/// The script of each text.
pub fn scripts(texts: &Texts) -> Scripts {
    let mut scripts = Scripts { names: Vec::new(), of: Vec::with_capacity(texts.len()) };
    let numbers: Vec<u32> = (0..texts.len() as u32).collect();
    for block in numbers.chunks(BLOCK) {
        let names: Vec<_> = texts.read(block).par_iter().map(|text| script(text)).collect();
        for name in names {
            let place = scripts.names.iter().position(|known| *known == name).unwrap_or_else(|| {
                scripts.names.push(name);
                scripts.names.len() - 1
            });
            // There are some ten names.
            scripts.of.push(place as u8);
        }
    }
    scripts
}

/// The mix of some texts, whose scripts are among those of all.
pub fn mix(texts: &Texts, scripts: &Scripts, of: &[Placed], seed: u64) -> Mix {
    let sample: Vec<_> = Shuffle::new(of.len(), key(&[SAMPLE, seed])).take(LOOKED_AT).collect();
    let languages: Vec<_> =
        sample.par_iter().map(|&at| language(&texts.text(of[at].text)).unwrap_or("unsure")).collect();
    Mix { scripts: counts(of.iter().map(|placed| scripts.of(placed.text))), languages: counts(languages) }
}

fn counts(names: impl IntoIterator<Item = &'static str>) -> Vec<Count> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().map(|(name, n)| Count { name: name.into(), n }).collect();
    counts.sort_unstable_by(|a, b| b.n.cmp(&a.n).then_with(|| a.name.cmp(&b.name)));
    counts
}

/// Rows whose query has no letter of the script that any of their positives is in.
pub fn cross_script(data: &Numbered<'_>, texts: &Texts, scripts: &Scripts) -> Option<Finding> {
    let mut tally = Tally::default();
    for (i, row) in data.rows.iter().enumerate() {
        let is_none = scripts.of(row.query) == "none";
        let query = if is_none { String::new() } else { texts.text(row.query) };
        // A name in Latin letters may be most of a Chinese query.
        let is_other = |&positive: &u32| {
            let name = scripts.of(positive);
            name != "none"
                && name != scripts.of(row.query)
                && !query.chars().any(|c| plain(script(c.encode_utf8(&mut [0; 4]))) == plain(name))
        };
        if !is_none && row.positives.iter().all(is_other) {
            tally.add(|| {
                let shown = [row.query, row.positives[0]].map(|number| texts.text(number));
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
