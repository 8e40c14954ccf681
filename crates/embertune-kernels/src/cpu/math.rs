//! `exp`, `tanh` and `erf` in `f32` without branches, so that loops over them become vector code.
//!
//! Each is within 2 units in the last place of the exact value (tested on a dense grid). `FMA` says that the
//! instruction set fuses multiply and add; without it a fused operation would be a slow library call.
//! Sources: `exp` and `tanh` after Cephes (`expf.c`, `tanhf.c`, Moshier), `erf` after N. Juffa's public `my_erff`.

/// `a * b + c`, rounded once where `FMA`, else twice.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x`. Zero below -104, infinity above 89, NaN of NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons in this order keep a NaN.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (y, n) = reduced_exp::<FMA>(x);
    // 2^n in two factors: n reaches from -150 to 128, the exponent of one float does not.
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `e^x` of an `x` of at most 88, in fewer steps than [`exp`]. Zero below -87.7, where it would be no normal number; NaN of NaN.
#[inline(always)]
pub(crate) fn exp_below_88<const FMA: bool>(x: f32) -> f32 {
    let x = if x < -88.0 { -88.0 } else { x };
    let (y, n) = reduced_exp::<FMA>(x);
    y * power_of_two(n)
}

/// `(y, n)` with `e^x = y 2^n` and `y` between `1 / sqrt(2)` and `sqrt(2)`.
#[inline(always)]
fn reduced_exp<const FMA: bool>(x: f32) -> (f32, i32) {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; products of the first with small integers are exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_HI, x);
    let r = mul_add::<FMA>(n, -LN2_LO, r);
    let mut p = 1.987_569_1e-4;
    p = mul_add::<FMA>(p, r, 1.398_199_9e-3);
    p = mul_add::<FMA>(p, r, 8.333_452e-3);
    p = mul_add::<FMA>(p, r, 4.166_579_6e-2);
    p = mul_add::<FMA>(p, r, 1.666_666_5e-1);
    p = mul_add::<FMA>(p, r, 0.5);
    let y = mul_add::<FMA>(p, r * r, r) + 1.0;
    (y, shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32)
}

/// `2^n` for `n` in `-126..=127`; zero of -127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `tanh x`.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let mut p = -5.704_988_7e-3;
    p = mul_add::<FMA>(p, s, 2.063_909e-2);
    p = mul_add::<FMA>(p, s, -5.373_971_6e-2);
    p = mul_add::<FMA>(p, s, 1.333_144_2e-1);
    p = mul_add::<FMA>(p, s, -3.333_328e-1);
    let small = mul_add::<FMA>(p * s, x, x);
    let large = (1.0 - 2.0 / (exp::<FMA>(2.0 * t) + 1.0)).copysign(x);
    if t < 0.625 { small } else { large }
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;

    let mut r = mul_add::<FMA>(-1.728_534_7e-5, t, 3.831_971_3e-4);
    let u = mul_add::<FMA>(-3.883_964_4e-3, t, 2.425_462_2e-2);
    r = mul_add::<FMA>(r, s, u);
    r = mul_add::<FMA>(r, t, -1.067_778_8e-1);
    r = mul_add::<FMA>(r, t, -6.348_469e-1);
    r = mul_add::<FMA>(r, t, -1.287_175_1e-1);
    r = mul_add::<FMA>(r, t, -t);
    let large = (1.0 - exp_below_88::<FMA>(r)).copysign(x);

    let mut p = -5.967_617e-4;
    p = mul_add::<FMA>(p, s, 4.991_194_2e-3);
    p = mul_add::<FMA>(p, s, -2.676_813_5e-2);
    p = mul_add::<FMA>(p, s, 1.128_199_2e-1);
    p = mul_add::<FMA>(p, s, -3.761_253_4e-1);
    p = mul_add::<FMA>(p, s, 1.283_791_7e-1);
    let small = mul_add::<FMA>(p, x, x);

    if t > 0.927_734_4 { large } else { small }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place that a function may be off by.
    const MAX_ULP: f64 = 2.0;

    /// The largest error over a dense grid, in units of the last place of the exact value.
    fn worst_ulp(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, from: f32, to: f32) -> (f64, f32) {
        let n = 1_000_000;
        let mut worst = (0.0, 0.0);
        for i in 0..=n {
            let x = from + (to - from) * (i as f32 / n as f32);
            let e = exact(f64::from(x));
            let magnitude = (e.abs() as f32).max(f32::MIN_POSITIVE);
            let ulp = f64::from(f32::from_bits(magnitude.to_bits() + 1)) - f64::from(magnitude);
            let error = (f64::from(f(x)) - e).abs() / ulp;
            if error > worst.0 {
                worst = (error, x);
            }
        }
        worst
    }

    #[track_caller]
    fn check(fused: fn(f32) -> f32, plain: fn(f32) -> f32, exact: fn(f64) -> f64, from: f32, to: f32) {
        for (name, f) in [("fused", fused), ("plain", plain)] {
            let (error, x) = worst_ulp(f, exact, from, to);
            assert!(error <= MAX_ULP, "{name}: {error} ulp at {x}");
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        check(exp::<true>, exp::<false>, f64::exp, -86.0, 88.7);
        check(exp::<true>, exp::<false>, f64::exp, -1.0, 1.0);
        assert_eq!((exp::<true>(0.0), exp::<true>(-200.0), exp::<true>(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert_eq!((exp::<true>(200.0), exp::<true>(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(exp::<true>(f32::NAN).is_nan() && exp::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn exp_below_88_is_within_two_ulp() {
        check(exp_below_88::<true>, exp_below_88::<false>, f64::exp, -87.3, 87.9);
        check(exp_below_88::<true>, exp_below_88::<false>, f64::exp, -1.0, 1.0);
        assert_eq!([0.0, -87.7, -200.0, f32::NEG_INFINITY].map(exp_below_88::<true>), [1.0, 0.0, 0.0, 0.0]);
        assert_eq!([-87.7, f32::NEG_INFINITY].map(exp_below_88::<false>), [0.0, 0.0]);
        assert!(exp_below_88::<true>(f32::NAN).is_nan() && exp_below_88::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_two_ulp() {
        check(tanh::<true>, tanh::<false>, f64::tanh, -10.0, 10.0);
        check(tanh::<true>, tanh::<false>, f64::tanh, -0.01, 0.01);
        assert_eq!((tanh::<true>(100.0), tanh::<true>(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_two_ulp() {
        check(erf::<true>, erf::<false>, libm::erf, -6.0, 6.0);
        check(erf::<true>, erf::<false>, libm::erf, -0.01, 0.01);
        assert_eq!((erf::<true>(f32::INFINITY), erf::<true>(-100.0)), (1.0, -1.0));
        assert!(erf::<true>(f32::NAN).is_nan());
    }
}
