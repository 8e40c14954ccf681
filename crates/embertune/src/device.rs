//! The device that work runs on: what the user asks for, as far as the machine has it.

use std::fmt;
use std::str::FromStr;

use embertune_kernels::cpu::Cpu;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How linear layers and attention multiply. Sums, weights, optimizer, softmax, LayerNorm and loss are f32 (or wider) with either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where the CPU multiplies it natively, else f32.
    #[default]
    Auto,
    /// f32.
    Fp32,
    /// bf16; an error where the CPU does not multiply it, unless it may be emulated.
    Bf16,
}

impl Precision {
    const ALL: [(&str, Precision); 3] =
        [("auto", Precision::Auto), ("fp32", Precision::Fp32), ("bf16", Precision::Bf16)];
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, precision)| *precision).ok_or_else(|| "expected auto, fp32 or bf16".into())
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, precision)| precision == self).map_or("", |(name, _)| name))
    }
}

/// What to do where the CPU does not multiply bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// Refuse.
    Refused,
    /// Compute the same numbers, slower than f32.
    Allowed,
}

/// This machine's CPU, multiplying in `precision`.
///
/// # Errors
/// [`Precision::Bf16`] on a CPU that does not multiply bf16, where emulation is refused.
pub fn cpu(precision: Precision, emulation: Emulation) -> Result<Cpu> {
    match (precision, Cpu::bf16(), emulation) {
        (Precision::Fp32, ..) | (Precision::Auto, None, _) => Ok(Cpu::new()),
        (Precision::Auto | Precision::Bf16, Some(cpu), _) => Ok(cpu),
        (Precision::Bf16, None, Emulation::Allowed) => Ok(Cpu::bf16_emulated()),
        (Precision::Bf16, None, Emulation::Refused) => Err(Error::Setting {
            problem: "`--precision bf16`: this CPU does not multiply bf16 (AVX-512 BF16 is needed)".into(),
            hint: Some(
                "use `--precision auto`, which computes in f32 here, or `--allow_emulation` for the same numbers, slowly"
                    .into(),
            ),
        }),
    }
}
