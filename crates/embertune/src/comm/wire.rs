//! Numbers as they go over the wire: little-endian, f32 bit for bit, or rounded to bf16.

use std::fmt;
use std::str::FromStr;

use half::bf16;
use serde::{Deserialize, Serialize};

/// How numbers are sent that are summed over ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to the nearest bf16, which is half as long: each addend once, and the sum, which is taken in f32, once more.
    Bf16,
}

impl Wire {
    const ALL: [(&str, Wire); 2] = [("fp32", Wire::Fp32), ("bf16", Wire::Bf16)];

    /// Bytes of a number.
    pub fn value_bytes(self) -> usize {
        match self {
            Wire::Fp32 => size_of::<f32>(),
            Wire::Bf16 => size_of::<bf16>(),
        }
    }

    /// `values` as they are sent.
    pub fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Wire::Fp32 => to_bytes(values),
            Wire::Bf16 => {
                let mut bytes = vec![0; size_of::<bf16>() * values.len()];
                let words = bytes.as_chunks_mut().0.iter_mut();
                words.zip(values).for_each(|(to, &value)| *to = bf16::from_f32(value).to_le_bytes());
                bytes
            }
        }
    }

    /// Gives each number of `bytes`, and the place in `places` that it is for, to `take`.
    pub fn read(self, bytes: &[u8], places: &mut [f32], take: impl Fn(&mut f32, f32)) {
        match self {
            Wire::Fp32 => places.iter_mut().zip(floats(bytes)).for_each(|(place, x)| take(place, x)),
            Wire::Bf16 => {
                let words = bytes.as_chunks().0;
                places.iter_mut().zip(words).for_each(|(place, &word)| take(place, bf16::from_le_bytes(word).to_f32()));
            }
        }
    }
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, wire)| *wire).ok_or_else(|| "expected fp32 or bf16".into())
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, wire)| wire == self).map_or("", |(name, _)| name))
    }
}

/// f32, bit for bit.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
    bytes
}

/// What [`to_bytes`] made bytes of.
pub fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire_bit_for_bit() {
        let values = [0.0, -0.0, 1.5e-42, f32::NAN, f32::INFINITY, -7.25];
        let back: Vec<_> = floats(&to_bytes(&values)).map(f32::to_bits).collect();
        assert_eq!(back, values.map(f32::to_bits));
    }

    #[test]
    fn bf16_is_half_as_long_and_rounds_to_the_nearest() {
        // Ties go to the even one: 1 + 2^-8 is halfway between 1 and 1 + 2^-7.
        let values = [0.0, -7.25, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.003, f32::INFINITY, 1e-40];
        let bytes = Wire::Bf16.to_bytes(&values);
        assert_eq!(bytes.len(), Wire::Bf16.value_bytes() * values.len());
        let mut back = [0.0; 7];
        Wire::Bf16.read(&bytes, &mut back, |place, x| *place = x);
        assert_eq!(back[..6], [0.0, -7.25, 1.0, 1.0 + 2.0 / 128.0, 1.0, f32::INFINITY]);
        assert!((back[6] - 1e-40).abs() < 1e-41);
        Wire::Bf16.read(&Wire::Bf16.to_bytes(&[f32::NAN]), &mut back[..1], |place, x| *place = x);
        assert!(back[0].is_nan());
    }
}
