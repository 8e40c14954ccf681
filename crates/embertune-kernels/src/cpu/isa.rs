//! Instruction sets: which of them this machine has, and the macro that compiles one plain loop for each.
//!
//! The choice is made once, at run time, when a [`Cpu`](super::Cpu) is made; the build needs no flags.

use std::fmt;

/// An instruction set that the element-wise loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of the target architecture has (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// All instruction sets, the widest last.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// Whether this machine has it.
    pub fn is_present(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

/// An instruction set that this machine has: the proof that code compiled for it may be called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detected(Isa);

impl Detected {
    /// `isa`, where the machine has it.
    pub(crate) fn new(isa: Isa) -> Option<Self> {
        isa.is_present().then_some(Detected(isa))
    }

    /// The widest that the machine has.
    pub(crate) fn widest() -> Self {
        let isa = Isa::ALL.into_iter().rev().find(|isa| isa.is_present());
        Detected(isa.unwrap_or(Isa::Portable))
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }
}

/// Whether `a * b + c` is one fast instruction on every CPU of the target.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

/// Defines a function whose body is compiled for every [`Isa`] and that takes a [`Detected`] as its first argument.
///
/// The const parameter says whether the instruction set fuses multiply and add; pass it on to what the body calls, and
/// mark all that `#[inline(always)]`, so that it is compiled with the body.
macro_rules! per_isa {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<const $fma:ident: bool>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::cpu::isa::Detected, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            match isa.isa() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a `Detected` holds AVX2 only where AVX2 and FMA were found on this machine.
                $crate::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a `Detected` holds AVX-512 only where all features that are enabled here were found.
                $crate::cpu::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                _ => body::<{ $crate::cpu::isa::PORTABLE_FMA }>($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;
