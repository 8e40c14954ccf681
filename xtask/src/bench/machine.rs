//! What the numbers of a run depend on besides the code: the machine and the versions of everything.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Instruction sets that decide which kernels run.
const FEATURES: [&str; 4] = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"];

/// Python packages that a comparison depends on.
const PACKAGES: [&str; 7] =
    ["sentence_transformers", "transformers", "torch", "onnxruntime", "faiss_cpu", "numpy", "tokenizers"];

/// The CPU, as Linux describes it.
struct Cpu {
    vendor: String,
    family: u32,
    model: u32,
    name: String,
    flags: Vec<String>,
    cores: usize,
}

impl Cpu {
    fn read() -> Cpu {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim()).to_string()
        };
        Cpu {
            vendor: field("vendor_id"),
            family: field("cpu family").parse().unwrap_or(0),
            model: field("model").parse().unwrap_or(0),
            name: field("model name"),
            flags: field("flags").split_whitespace().map(String::from).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// The name of the design, which says more than the names that CPUs are sold by.
    fn design(&self) -> &'static str {
        match (self.vendor.as_str(), self.family, self.model) {
            ("GenuineIntel", 6, 85) => "cascadelake",
            ("GenuineIntel", 6, 106 | 108) => "icelake",
            ("GenuineIntel", 6, 143) => "sapphirerapids",
            ("GenuineIntel", 6, 207) => "emeraldrapids",
            ("GenuineIntel", 6, 173 | 174) => "graniterapids",
            ("AuthenticAMD", 23, _) => "zen2",
            ("AuthenticAMD", 25, 0x10..=0x1f | 0x60..=0x7f | 0xa0..=0xaf) => "zen4",
            ("AuthenticAMD", 25, _) => "zen3",
            ("AuthenticAMD", 26, _) => "zen5",
            _ => std::env::consts::ARCH,
        }
    }
}

/// A short name for the folder of a run: `zen4-2core`.
pub fn name() -> String {
    let cpu = Cpu::read();
    format!("{}-{}core", cpu.design(), cpu.cores)
}

/// Whether other work ran when the benchmark began, in words, where it did.
pub fn busy() -> Option<String> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = load.split_whitespace().next()?.parse().ok()?;
    (load > 0.5).then(|| format!("the load average is {load}: other work on the machine changes the numbers"))
}

/// The facts of the machine and the versions, as (what, value).
pub fn facts(root: &Path, python: &Path) -> Vec<(String, String)> {
    let cpu = Cpu::read();
    let has = |feature: &&str| cpu.flags.iter().any(|flag| flag == feature);
    let without: Vec<_> = FEATURES.iter().copied().filter(|feature| !has(feature)).collect();
    let with: Vec<_> = FEATURES.iter().copied().filter(has).collect();
    let without = if without.is_empty() { String::new() } else { format!("; without {}", without.join(" ")) };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
    let mut facts = vec![
        ("CPU".to_string(), format!("{} ({}), {} cores", cpu.name, cpu.design(), cpu.cores)),
        ("instructions".into(), format!("{}{without}", with.join(" "))),
        ("memory".into(), format!("{:.1} GiB", memory_kib / 1024.0 / 1024.0)),
        ("system".into(), first_line("uname", &["-sr"])),
        ("rustc".into(), first_line("rustc", &["--version"])),
        ("Embertune".into(), format!("commit {}", commit(root))),
        ("Python".into(), first_line(&python.to_string_lossy(), &["--version"])),
    ];
    facts.extend(packages(python));
    facts
}

/// The short hash of what is checked out, with `+` where files differ from it.
pub fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
    };
    // The records of the runs themselves change nothing that is measured.
    let changed = git(&["status", "--porcelain", "--", ".", ":!bench/runs"]);
    format!("{}{}", git(&["rev-parse", "--short=10", "HEAD"]), if changed.is_empty() { "" } else { "+" })
}

/// Versions from the names of the folders in which pip describes what it installed.
fn packages(python: &Path) -> Vec<(String, String)> {
    let library = python.parent().and_then(Path::parent).map(|venv| venv.join("lib"));
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let installed: Vec<String> = library
        .iter()
        .flat_map(|library| folders(library))
        .flat_map(|version| folders(&version.join("site-packages")).collect::<Vec<_>>())
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".dist-info").map(String::from))
        .collect();
    let version = |package: &str| installed.iter().find_map(|name| name.strip_prefix(&format!("{package}-")));
    PACKAGES.iter().filter_map(|package| Some((package.replace('_', "-"), version(package)?.to_string()))).collect()
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_string()
}
