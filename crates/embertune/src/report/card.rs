//! The model card, `README.md` in the folder of a tuned model: what it was made from, how good it is, how to use it. No text of the data
//! and no path of somebody's machine is in it.

use std::fs;

use super::command::changed_settings;
use super::page::model_name;
use super::run::Run;
use super::write_text;
use crate::error::{Error, Result};
use crate::eval::verdict::thousands;

/// Says that the card is ours to write anew. Whoever edits the card removes it, or loses the changes.
const MARK: &str =
    "<!-- Written by Embertune, and written anew by its commands. Remove this line to keep your changes. -->";
/// Settings that say where something is on somebody's machine, or how a run was watched.
const NOT_ON_THE_CARD: [&str; 11] = [
    "model_name_or_path",
    "train_data",
    "output_dir",
    "eval_data",
    "candidate_pool",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "memory_budget",
    "vector_cache",
    "vector_cache_gb",
];

/// Writes the card of a run's model, unless somebody else wrote the one that is there. Gives whether it was written.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read or written.
pub fn write(run: &Run) -> Result<bool> {
    let path = run.model.join("README.md");
    if path.is_file() && !fs::read_to_string(&path).map_err(Error::io(&path, "read"))?.contains(MARK) {
        return Ok(false);
    }
    write_text(&path, &card(run))?;
    Ok(true)
}

/// The card, with front matter for the Hugging Face hub.
pub fn card(run: &Run) -> String {
    let base = run.setting("model_name_or_path").unwrap_or_default();
    let shown = model_name(&base);
    // The hub refuses a base model that is not one of its names.
    let front_base = match shown == base && base.matches('/').count() == 1 {
        true => format!("base_model: {base}\nbase_model_relation: finetune\n"),
        false => String::new(),
    };
    let facts = &run.facts;
    let mut text = format!(
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n{front_base}tags:\n- sentence-transformers\n\
         - sentence-similarity\n- feature-extraction\n- embertune\n---\n{MARK}\n\n# {}\n\n{shown}, fine-tuned with Embertune {} on {} rows \
         with {} distinct texts, in {} steps.\n",
        run.name,
        facts.embertune,
        thousands(facts.counts.rows as u64),
        thousands(facts.counts.texts as u64),
        thousands(facts.counts.steps as u64),
    );
    text += &evaluation(run);
    text += &usage(run);
    text += "\n## Training settings\n\n| setting | value |\n|---|---|\n";
    for (name, value) in changed_settings(&facts.settings) {
        if !NOT_ON_THE_CARD.contains(&name.as_str()) {
            text += &format!("| {name} | {} |\n", value.replace('|', "\\|").replace('\n', " "));
        }
    }
    text
}

fn evaluation(run: &Run) -> String {
    let Some(record) = &run.verdict else { return String::new() };
    let mut text = format!("\n## Evaluation\n\n{}\n", record.verdict);
    for set in &record.comparison.sets {
        text += &format!("\n{}: {} held-out queries", set.name, thousands(set.main().n as u64));
        text += &match set.n_candidates {
            0 => String::new(),
            n => format!(", {} passages", thousands(n as u64)),
        };
        text += "\n\n| metric | base | this model | change, 95 % interval |\n|---|--:|--:|---|\n";
        for row in &set.measures {
            let found = &row.difference;
            let interval = found.interval.map_or(String::new(), |(low, high)| format!(" [{low:+.3}, {high:+.3}]"));
            text += &format!(
                "| {} | {:.4} | {:.4} | {:+.3}{interval} |\n",
                row.measure, found.base, found.tuned, found.difference
            );
        }
    }
    text
}

fn usage(run: &Run) -> String {
    let [query, passage] = &run.facts.prompts;
    let prompts = match (query.is_empty(), passage.is_empty()) {
        (true, true) => "Queries and passages have no prompt.",
        _ => "The prompts are in the model's folder; the calls below put them in front.",
    };
    let tei = |role: &str, prompt: &str| match prompt.is_empty() {
        true => r#"{"inputs": "..."}"#.to_string(),
        false => format!(r#"{{"inputs": "...", "prompt_name": "{role}"}}"#),
    };
    format!(
        "\n## Usage\n\n{prompts}\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(\"path/to/this/model\")\n\
         queries = model.encode_query([\"...\"])\npassages = model.encode_document([\"...\"])\nprint(model.similarity(queries, passages))\n```\n\n\
         With text-embeddings-inference:\n\n```bash\ntext-embeddings-router --model-id path/to/this/model --port 8080\n\
         curl localhost:8080/embed -H 'Content-Type: application/json' -d '{}'   # a query\n\
         curl localhost:8080/embed -H 'Content-Type: application/json' -d '{}'   # a passage\n```\n",
        tei("query", query),
        tei("document", passage),
    )
}
