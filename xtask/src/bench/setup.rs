//! What has to be there before anything can be measured: the peers in a Python of their own, the models, our release build.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::options::{Model, Options};
use super::process::Runner;

/// Where everything is.
pub struct Setup {
    pub embertune: PathBuf,
    /// Programs that time parts of the library: `target/release/examples`.
    pub examples: PathBuf,
    pub python: PathBuf,
    pub models: PathBuf,
    /// `.cache/bench`: data made for the benchmarks, and what the runs write.
    pub cache: PathBuf,
    pub runner: Runner,
    pub threads: usize,
    data: PathBuf,
}

impl Setup {
    /// Brings what is missing. Takes minutes the first time.
    pub fn new(root: &Path, options: &Options) -> Result<Setup, String> {
        let cache = root.join(".cache/bench");
        for folder in ["data", "logs", "out", "search"] {
            let folder = cache.join(folder);
            std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let python = venv(root)?;
        let models = root.join(".cache/models");
        if options.models.iter().any(|model| !models.join(model.folder).exists()) {
            run(Command::new(&python).arg(root.join("scripts/get-models")).arg(&models))?;
        }
        build(root, &["--package", "embertune-cli"])?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let release = target.join("release");
        let runner = Runner { python: python.clone(), scripts: root.join("bench"), logs: cache.join("logs") };
        Ok(Setup {
            embertune: release.join("embertune"),
            examples: release.join("examples"),
            python,
            models,
            cache,
            runner,
            threads: options.threads,
            data: options.data.clone(),
        })
    }

    pub fn model(&self, model: Model) -> PathBuf {
        self.models.join(model.folder)
    }

    /// A file of a data set, which must exist.
    pub fn data_file(&self, set: &str, file: &str) -> Result<PathBuf, String> {
        let path = self.data.join(set).join(file);
        if path.exists() {
            return Ok(path);
        }
        Err(format!("{} does not exist\nhint: name the folder of the data sets with `--data DIR`", path.display()))
    }
}

/// Builds `arguments` for speed.
pub fn build(root: &Path, arguments: &[&str]) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args(["build", "--quiet", "--release"]).args(arguments).current_dir(root))
}

/// What `bench/peer.py` imports.
const IMPORTS: [&str; 7] =
    ["torch", "transformers", "sentence_transformers", "faiss", "onnx", "onnxruntime", "datasets"];

/// The Python with the packages of `bench/requirements.txt`, which are installed where one is missing.
fn venv(root: &Path) -> Result<PathBuf, String> {
    let folder = root.join(".cache/bench-venv");
    let python = folder.join("bin/python");
    let is_whole = || {
        let find = "import sys, importlib.util as u; sys.exit(any(u.find_spec(p) is None for p in sys.argv[1:]))";
        let found = Command::new(&python).args(["-c", find]).args(IMPORTS).output();
        found.is_ok_and(|output| output.status.success())
    };
    if !is_whole() {
        eprintln!("bench: installing the peers into {} (some GB, minutes)", folder.display());
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let requirements = root.join("bench/requirements.txt");
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{command:?}` failed")) }
}
