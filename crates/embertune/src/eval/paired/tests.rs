//! What intervals and tests promise, checked against exact values and by simulation.

use super::*;

fn uniform(key: u64, i: u64) -> f64 {
    (splitmix64(key ^ splitmix64(i)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Standard normal (Box and Muller).
fn normal(key: u64, i: u64) -> f64 {
    let (a, b) = (uniform(key, 2 * i), uniform(key, 2 * i + 1));
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// A pair of reciprocal ranks within 10, as two models give them: the logarithm of the rank is normal, tuning moves it down by
/// `gain` and about by `noise`, and leaves two of five queries alone. About three of four differences are zero.
fn reciprocal_ranks(gain: f64, noise: f64, key: u64) -> (f64, f64) {
    let base = 0.7 + 1.6 * normal(key, 0);
    let tuned = if uniform(key, 100) < 0.4 { base } else { base + noise * normal(key, 2) - gain };
    let reciprocal = |logarithm: f64| {
        let rank = logarithm.exp().floor().max(1.0);
        if rank <= 10.0 { 1.0 / rank } else { 0.0 }
    };
    (reciprocal(base), reciprocal(tuned))
}

/// How much tuning gains, and how much it shuffles: nothing gained; a little of one sign, which is the most skewed; much; both signs.
const TUNINGS: [(f64, f64); 4] = [(0.0, 0.6), (0.3, 0.2), (0.8, 0.5), (0.3, 0.6)];

/// Shares of test sets of `n` queries: those whose interval contains the true difference; and, the models of each pair being swapped at
/// random so that there is no difference, those on which one is found.
fn coverage(n: usize, (gain, noise): (f64, f64), n_sets: u64, n_samples: usize) -> (f64, f64) {
    let pair = |seed: u64, i: u64| reciprocal_ranks(gain, noise, random::key(&[seed, i]));
    let n_truth = 1_000_000;
    let truth = (0..n_truth).into_par_iter().map(|i| pair(9999, i)).map(|(b, t)| ((t - b) * 1e9).round() as i64);
    let truth = truth.sum::<i64>() as f64 / 1e9 / n_truth as f64;
    let resampling = Resampling { n_samples, seed: 7 };
    let sets = (0..n_sets).into_par_iter().map(|set| {
        let (base, tuned): (Vec<_>, Vec<_>) = (0..n as u64).map(|i| pair(set, i)).unzip();
        let interval = Difference::of(&base, &tuned, resampling).interval;
        let swapped = (0..n as u64).map(|i| match (uniform(random::key(&[set, 1]), i) < 0.5, pair(set, i)) {
            (true, (base, tuned)) => (tuned, base),
            (false, pair) => pair,
        });
        let (base, tuned): (Vec<_>, Vec<_>) = swapped.unzip();
        let finding = Difference::of(&base, &tuned, resampling).finding;
        (
            u32::from(interval.is_some_and(|(low, high)| (low..=high).contains(&truth))),
            u32::from(matches!(finding, Finding::Better | Finding::Worse)),
        )
    });
    let (covered, found) = sets.reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    (f64::from(covered) / n_sets as f64, f64::from(found) / n_sets as f64)
}

fn check_coverage(sizes: &[usize], n_sets: u64, n_samples: usize) {
    for tuning in TUNINGS {
        for &n in sizes {
            let (covered, found) = coverage(n, tuning, n_sets, n_samples);
            eprintln!(
                "gain {}, noise {}, {n} queries: {covered:.4} covered, {found:.4} found by chance",
                tuning.0, tuning.1
            );
            // The claim is of 100 queries and more; below it is no worse than this.
            let allowed = if n < 100 { 0.03 } else { 0.015 };
            assert!((covered - 0.95).abs() <= allowed, "{tuning:?}, {n} queries: {covered}");
            assert!(found <= 0.06, "{tuning:?}, {n} queries: {found} found by chance");
        }
    }
}

#[test]
fn intervals_contain_the_truth_in_95_percent_of_test_sets() {
    check_coverage(&[100], 1000, 399);
}

#[test]
#[ignore = "60,000 test sets, minutes in a debug build: `cargo test --release -- --ignored intervals`"]
fn intervals_contain_the_truth_for_all_sizes_of_test_sets() {
    check_coverage(&[60, 100, 200, 300, 1000], 3000, 999);
}

#[test]
fn all_signs_of_few_differences_are_tried() {
    // Of 2^6 signs only the two that are all equal reach the sum.
    let found = Difference::of(&[0.0; 10], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], Resampling::default());
    assert!(found.p_value_is_exact && found.p_value == 2.0 / 64.0, "{}", found.p_value);
    assert_eq!((found.won, found.lost, found.tied, found.finding), (6, 0, 4, Finding::Better));
    // Differences 1, 1 and -0.5: sums 1.5 2.5 0.5 -0.5 and their opposites; 4 of 8 are at least 1.5 from 0.
    assert_eq!(sign_flips(&[1.0, 1.0, -0.5], Resampling::default()), (0.5, true));
    assert_eq!(sign_flips(&[], Resampling::default()), (1.0, true));
}

#[test]
fn the_sampled_test_agrees_with_the_exact_one() {
    for seed in 0..20 {
        let values: Vec<f64> = (0..16).map(|i| normal(seed, i) + 0.4).collect();
        let (exact, is_exact) = sign_flips(&values, Resampling::default());
        // A zero that is not taken out makes it one value too many for all signs.
        let (sampled, is_sampled) = sign_flips(&[&values[..], &[0.0]].concat(), Resampling::default());
        assert!(is_exact && !is_sampled);
        // Five standard errors of 9,999 samples.
        assert!((exact - sampled).abs() <= 5.0 * (exact * (1.0 - exact) / 9999.0).sqrt() + 2e-4, "{exact} {sampled}");
    }
}

#[test]
fn student_quantiles_are_those_of_the_tables() {
    for (freedom, expected) in
        [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)]
    {
        assert!((student_quantile(freedom) - expected).abs() <= 0.002, "{freedom}: {}", student_quantile(freedom));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads_but_on_the_seed() {
    let (base, tuned): (Vec<_>, Vec<_>) = (0..200).map(|i| reciprocal_ranks(0.3, 0.5, i)).unzip();
    let of = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Difference::of(&base, &tuned, Resampling { n_samples: 999, seed }))
    };
    assert_eq!(of(1, 42), of(3, 42));
    assert_ne!(of(1, 42).interval, of(1, 43).interval);
}

#[test]
fn swapping_the_lists_turns_everything_around() {
    let (base, tuned): (Vec<_>, Vec<_>) = (0..300).map(|i| reciprocal_ranks(0.5, 0.3, i)).unzip();
    let there = Difference::of(&base, &tuned, Resampling::default());
    let back = Difference::of(&tuned, &base, Resampling::default());
    assert_eq!((there.finding, back.finding), (Finding::Better, Finding::Worse));
    assert_eq!(
        (there.won, there.lost, there.p_value, there.n_needed),
        (back.lost, back.won, back.p_value, back.n_needed)
    );
    let ((low, high), (back_low, back_high)) = (there.interval.unwrap(), back.interval.unwrap());
    assert!((low + back_high).abs() < 1e-9 && (high + back_low).abs() < 1e-9, "{low} {high} {back_low} {back_high}");
    assert!(low < there.difference && there.difference < high);
}

#[test]
fn equal_lists_are_the_same_and_few_queries_show_nothing() {
    let same = Difference::of(&[0.5, 1.0], &[0.5, 1.0], Resampling::default());
    assert_eq!((same.finding, same.interval, same.p_value, same.n_needed), (Finding::Same, None, 1.0, None));
    let one = Difference::of(&[0.0], &[1.0], Resampling::default());
    assert_eq!((one.finding, one.interval, one.p_value), (Finding::NotShown, None, 1.0));
    // Five gains without a loss are likely enough by chance: 2 of 32 signs.
    let five = Difference::of(&[0.0; 30], &[[0.5; 5].as_slice(), &[0.0; 25]].concat(), Resampling::default());
    assert_eq!((five.finding, five.p_value), (Finding::NotShown, 0.0625));
}

/// With as many queries as are said to be needed, a difference of that size is found in four of five test sets.
#[test]
fn the_number_of_queries_needed_has_a_power_of_80_percent() {
    let (base, tuned): (Vec<_>, Vec<_>) = (0..100_000).map(|i| reciprocal_ranks(0.3, 0.5, i)).unzip();
    let needed = Difference::of(&base, &tuned, Resampling { n_samples: 9, seed: 1 }).n_needed.unwrap();
    let n_sets = 300;
    let found = (0..n_sets).into_par_iter().filter(|set| {
        let pairs = (0..needed).map(|i| reciprocal_ranks(0.3, 0.5, random::key(&[77, *set, i])));
        let (base, tuned): (Vec<_>, Vec<_>) = pairs.unzip();
        Difference::of(&base, &tuned, Resampling { n_samples: 399, seed: 2 }).finding == Finding::Better
    });
    let power = found.count() as f64 / n_sets as f64;
    eprintln!("{needed} queries: {power:.3}");
    // Three standard errors of 300 sets are 0.07.
    assert!((power - 0.8).abs() <= 0.07, "{needed} queries: {power}");
}
