//! What a run found out, for people: a page that opens from the disk and needs nothing else, and a short text for a pull request.
//!
//! In: the folders of runs. Out: HTML and Markdown. Charts are drawn here; the page's only script searches, and opens what is folded
//! before the page is printed.

use std::path::{Path, PathBuf};

pub mod audit;
pub mod card;
mod changes;
mod chart;
pub mod command;
mod markdown;
mod metrics;
mod page;
pub mod run;
mod setup;
mod side_by_side;
mod training;
pub mod verdict;

pub use markdown::markdown;
pub use page::page;
pub use run::Run;
pub use side_by_side::page as page_of_several;
pub use verdict::VerdictRecord;

use crate::data::atomic::write_file;
use crate::error::Result;

/// The page, in the folder of a run.
pub const PAGE: &str = "report.html";
/// The short text.
pub const SHORT: &str = "report.md";

/// Writes `report.html` and `report.md` into the folder of a run. Gives their paths.
///
/// # Errors
/// [`crate::Error::Io`] where the folder cannot be written to.
pub fn write(run: &Run) -> Result<[PathBuf; 2]> {
    let paths = [PAGE, SHORT].map(|name| run.folder.join(name));
    write_text(&paths[0], &page(run))?;
    write_text(&paths[1], &markdown(run))?;
    Ok(paths)
}

/// Writes a text to a file, the whole or nothing.
///
/// # Errors
/// [`crate::Error::Io`] with `path`.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_file(path, |out| out.write_all(text.as_bytes()))
}
