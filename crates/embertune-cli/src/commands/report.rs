//! `embertune report`: what runs found out, as a page.

use std::path::PathBuf;

use embertune::Result;
use embertune::data::atomic::check_writable;
use embertune::progress::Progress;
use embertune::report::{PAGE, Run, SHORT, card, markdown, page, page_of_several, write_text};

use crate::args::ReportArgs;

/// Runs the command.
pub fn run(args: &ReportArgs, progress: &dyn Progress) -> Result<()> {
    if let Some(output) = &args.output {
        check_writable(output)?;
    }
    let mut runs = args.runs.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    if args.no_texts {
        runs.iter_mut().for_each(Run::leave_out_texts);
    }
    for run in runs.iter().filter(|run| run.verdict.is_none()) {
        progress.note(&format!(
            "{}: no verdict yet; `embertune compare BASE {0} ... --save_verdict {0}` puts one there",
            run.folder.display()
        ));
    }
    Run::tell_apart(&mut runs);
    let written = match &runs[..] {
        [run] => {
            let html = args.output.clone().unwrap_or_else(|| run.folder.join(PAGE));
            write_text(&html, &page(run))?;
            let short = run.folder.join(SHORT);
            write_text(&short, &markdown(run))?;
            if !card::write(run)? {
                progress.note("the model card is not one that Embertune wrote, and stays as it is");
            }
            vec![html, short]
        }
        several => {
            let html = args.output.clone().unwrap_or_else(|| PathBuf::from(PAGE));
            write_text(&html, &page_of_several(several))?;
            vec![html]
        }
    };
    for path in written {
        progress.note(&format!("wrote {}", path.display()));
    }
    Ok(())
}
