//! How much memory a run may take, and how much this process takes, as far as the system says it (Linux).

use std::fmt;
use std::fs;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The most that the whole process may take (`--memory_budget`): weights, gradients, moments and data included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MemoryBudget {
    /// A size.
    Bytes(u64),
    /// Percent, above 0 and at most 100, of the memory that is available when the run begins.
    Percent(f64),
}

impl Default for MemoryBudget {
    /// 60 %: what else runs on the machine, and the files that the system keeps in memory, have room beside it.
    fn default() -> Self {
        MemoryBudget::Percent(60.0)
    }
}

/// Names of sizes: those of powers of 1000, and of 1024. The larger of each first.
const UNITS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl MemoryBudget {
    /// In bytes, for one of `n_processes` that begin now on this machine and share a percentage; `None` for a percentage where the system
    /// does not say what is available.
    pub fn bytes(self, n_processes: usize) -> Option<u64> {
        match self {
            MemoryBudget::Bytes(bytes) => Some(bytes),
            MemoryBudget::Percent(percent) => {
                let share = percent / 100.0 / n_processes as f64;
                Some((available_bytes()? as f64 * share) as u64 + resident_bytes().unwrap_or(0))
            }
        }
    }

    /// In bytes of a device with `total` bytes of memory of its own, for one of `n_processes` that share it; `None` for a percentage where
    /// its driver does not say what it has.
    pub fn bytes_of_device(self, total: Option<u64>, n_processes: usize) -> Option<u64> {
        match self {
            MemoryBudget::Bytes(bytes) => Some(bytes),
            MemoryBudget::Percent(percent) => Some((total? as f64 * percent / 100.0 / n_processes as f64) as u64),
        }
    }
}

impl FromStr for MemoryBudget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |allowed: &str| Error::Setting {
            problem: format!("`--memory_budget {text}` is not allowed: it has to be {allowed}"),
            hint: Some("like 2GB, 800MB, 1.5GiB or 60%".into()),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (text[..digits].parse::<f64>(), text[digits..].trim());
        if unit == "%" {
            let allowed = number.ok().filter(|&percent| percent > 0.0 && percent <= 100.0);
            return allowed.map(MemoryBudget::Percent).ok_or_else(|| wrong("above 0% and at most 100%"));
        }
        let size = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, size)| *size as f64);
        let bytes = number.ok().zip(size).map(|(number, size)| number * size);
        match bytes {
            Some(bytes) if (1.0..1e18).contains(&bytes) => Ok(MemoryBudget::Bytes(bytes as u64)),
            _ => Err(wrong("a size with its unit, or a share of the available memory in percent")),
        }
    }
}

/// In the form that is parsed, without loss.
impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryBudget::Percent(percent) => write!(f, "{percent}%"),
            MemoryBudget::Bytes(bytes) => {
                let whole = UNITS.iter().find(|(_, size)| bytes % size == 0);
                let (name, size) = whole.unwrap_or(&("B", 1));
                write!(f, "{}{name}", bytes / size)
            }
        }
    }
}

impl TryFrom<String> for MemoryBudget {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MemoryBudget> for String {
    fn from(budget: MemoryBudget) -> String {
        budget.to_string()
    }
}

/// A number of bytes for people: `1.25 GB`, `730 MB`.
pub fn shown(bytes: u64) -> String {
    if bytes >= 1_000_000_000 {
        format!("{:.2} GB", bytes as f64 / 1e9)
    } else {
        format!("{} MB", bytes.div_ceil(1_000_000))
    }
}

/// What a new process can have without another being swapped out, within the limit of its control group.
fn available_bytes() -> Option<u64> {
    let machine = kilobytes_in("/proc/meminfo", "MemAvailable:")?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Version 2 says `max` where there is no limit, version 1 a number beyond any machine's memory.
    let groups = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ];
    let of_groups = groups.iter().filter_map(|(limit, used)| Some(number(limit)?.saturating_sub(number(used)?)));
    Some(of_groups.fold(machine, u64::min))
}

/// Resident memory of this process.
pub fn resident_bytes() -> Option<u64> {
    kilobytes_in("/proc/self/status", "VmRSS:")
}

/// Largest resident memory of this process so far.
pub fn peak_memory_bytes() -> Option<u64> {
    kilobytes_in("/proc/self/status", "VmHWM:")
}

/// The number of bytes in the line `<name> <n> kB` of a file of the kernel's.
fn kilobytes_in(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_sizes_or_shares_and_survive_being_written() {
        for (text, budget) in [
            ("2GB", MemoryBudget::Bytes(2_000_000_000)),
            ("1.5GiB", MemoryBudget::Bytes(3 << 29)),
            ("800 mb", MemoryBudget::Bytes(800_000_000)),
            ("123456KiB", MemoryBudget::Bytes(123_456 << 10)),
            ("60%", MemoryBudget::Percent(60.0)),
            ("12.5 %", MemoryBudget::Percent(12.5)),
        ] {
            assert_eq!(text.parse::<MemoryBudget>().unwrap(), budget, "{text}");
            assert_eq!(budget.to_string().parse::<MemoryBudget>().unwrap(), budget, "{budget}");
        }
        for text in ["", "2", "GB", "0GB", "-1GB", "2XB", "0%", "101%", "1e9", "2G B"] {
            let error = text.parse::<MemoryBudget>().unwrap_err();
            assert!(error.to_string().contains("`--memory_budget"), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn sizes_are_shown_in_three_digits() {
        for (bytes, text) in [(1_254_000_000, "1.25 GB"), (729_100_000, "730 MB"), (10, "1 MB")] {
            assert_eq!(shown(bytes), text);
        }
    }
}
