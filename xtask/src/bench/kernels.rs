//! The benches of `embertune-kernels` as they are, kept in the record: rates of each operation, medians of their own repeats.

use std::path::Path;
use std::process::Command;

use super::options::Options;
use super::record::{Record, Role, Sample, Work};

const BENCHES: [&str; 3] = ["linear", "attention", "elementwise"];

pub fn bench(options: &Options, record: &mut Record, root: &Path) -> Result<(), String> {
    let benches = if options.quick { &BENCHES[..1] } else { &BENCHES[..] };
    for run in 1..=options.pairs {
        for bench in benches {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let output = Command::new(cargo)
                .args(["bench", "--quiet", "--package", "embertune-kernels", "--bench", bench])
                .env("RAYON_NUM_THREADS", options.threads.to_string())
                .current_dir(root)
                .output()
                .map_err(|error| format!("cargo bench: {error}"))?;
            if !output.status.success() {
                return Err(format!("the bench `{bench}` failed:\n{}", String::from_utf8_lossy(&output.stderr)));
            }
            let mut settings = String::new();
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let Some((what, unit, median)) = rate(line) else {
                    // A line of its own names the precision that follows, or the number of threads.
                    settings = line.trim().replace(',', "");
                    continue;
                };
                let settings = settings.clone();
                let work = Work { bench: options.kind.name().into(), what, settings, ..Work::default() };
                record.add(&work, run, Sample::new(Role::Alone, "Embertune", median, unit))?;
            }
        }
    }
    Ok(())
}

/// What, unit and median of a line like `linear_forward, n 4000, 384 -> 384   GFLOP/s: best  101.2, median   99.8, per ...`.
fn rate(line: &str) -> Option<(String, &'static str, f64)> {
    let unit = ["GFLOP/s", "GB/s"].into_iter().find(|unit| line.contains(&format!(" {unit}: best ")))?;
    let (what, rates) = line.split_once(&format!(" {unit}: best "))?;
    let median = rates.split("median").nth(1)?.split(',').next()?.trim().parse().ok()?;
    Some((what.trim().replace(',', ""), unit, median))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_from_the_lines_of_the_benches() {
        let line = "linear_forward, n 4000, 384 -> 384             GFLOP/s: best  101.2, median   99.8, per busy core   50.1 (1.0 ms, 9 runs)";
        assert_eq!(rate(line), Some(("linear_forward n 4000 384 -> 384".into(), "GFLOP/s", 99.8)));
        assert_eq!(rate("2 threads"), None);
    }
}
