//! What counts prove: the bounds against published figures, and their coverage by simulation.

use banyan_routes::evidence::Window;
use banyan_routes::stats::{
    anytime_upper, clopper_pearson_lower, clopper_pearson_upper, is_larger, quantile_ranks, samples_needed,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ALPHA: f64 = 0.05;
const RUNS: u32 = 10_000;

#[test]
fn bounds_are_the_published_ones() {
    // With no mismatch: 299 samples prove 99 %, 2,995 prove 99.9 %, 29,956 prove 99.99 %, one less each does not.
    for (k, n, allowed) in
        [(0, 299, 0.01), (0, 2_995, 0.001), (0, 29_956, 0.0001), (1, 4_742, 0.001), (5, 10_511, 0.001)]
    {
        assert!(clopper_pearson_upper(k, n, ALPHA) <= allowed, "{k} of {n}");
        assert!(clopper_pearson_upper(k, n - 1, ALPHA) > allowed, "{k} of {}", n - 1);
    }
    assert_eq!(
        (samples_needed(0.01, ALPHA), samples_needed(0.001, ALPHA), samples_needed(0.0001, ALPHA)),
        (299, 2_995, 29_956)
    );
    for nothing in [
        clopper_pearson_upper(0, 0, ALPHA),
        clopper_pearson_upper(7, 7, ALPHA),
        anytime_upper(0, 0, ALPHA),
        anytime_upper(3, 3, ALPHA),
    ] {
        assert!((nothing - 1.0).abs() < f64::EPSILON);
    }
    // R: qbeta(0.95, 4, 97) = 0.07571, the upper bound of 3 in 100; qbeta(0.05, 3, 98) = 0.00823, the lower one.
    assert!((clopper_pearson_upper(3, 100, ALPHA) - 0.075_71).abs() < 5e-5);
    assert!((clopper_pearson_lower(3, 100, ALPHA) - 0.008_23).abs() < 5e-5);
}

#[test]
fn the_bound_that_may_be_looked_at_all_the_time_needs_4512() {
    let first = (1..10_000).find(|n| anytime_upper(0, *n, ALPHA) <= 0.001);
    assert!(matches!(first, Some(4_510..=4_514)), "{first:?}");
    for n in [100, 1_000, 10_000] {
        for k in [0, 1, 7] {
            assert!(anytime_upper(k, n, ALPHA) > clopper_pearson_upper(k, n, ALPHA), "{k} of {n}");
        }
    }
}

/// How many samples come before the next mismatch, and it with them.
fn gap(rng: &mut StdRng, rate: f64) -> u64 {
    let uniform: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
    (uniform.ln() / (-rate).ln_1p()).ceil().max(1.0) as u64
}

#[test]
fn a_worse_system_passes_one_look_in_at_most_five_runs_of_a_hundred() {
    let mut rng = StdRng::seed_from_u64(20_261_123);
    for samples in [2_995, 4_742, 10_511] {
        let passed = (0..RUNS)
            .filter(|_| {
                let (mut at, mut mismatches) = (gap(&mut rng, 0.001_05), 0);
                while at <= samples {
                    mismatches += 1;
                    at += gap(&mut rng, 0.001_05);
                }
                clopper_pearson_upper(mismatches, samples, ALPHA) <= 0.001
            })
            .count();
        assert!(passed as f64 / f64::from(RUNS) <= ALPHA, "{passed} of {RUNS} runs at {samples}");
    }
}

#[test]
fn a_worse_system_passes_any_of_forty_thousand_looks_in_at_most_five_runs_of_a_hundred() {
    const LOOKS: u64 = 40_000;
    // The first look at which k mismatches pass.
    let passes_from: Vec<u64> = (0..60)
        .map(|k| {
            let (mut low, mut high) = (k, LOOKS * 4);
            while low + 1 < high {
                let middle = low.midpoint(high);
                if anytime_upper(k, middle, ALPHA) <= 0.001 { high = middle } else { low = middle }
            }
            high
        })
        .collect();
    let mut rng = StdRng::seed_from_u64(4_512);
    let passed = (0..RUNS)
        .filter(|_| {
            let mut at = 0;
            for from in &passes_from {
                // With this many mismatches the looks go on to the one before the next.
                let next = at + gap(&mut rng, 0.001_001);
                if (*from).max(at) < next.min(LOOKS + 1) {
                    return true;
                }
                at = next;
                if at > LOOKS {
                    return false;
                }
            }
            false
        })
        .count();
    let rate = passed as f64 / f64::from(RUNS);
    // Never above five, and near enough to it that the bound is no mere caution: half of it at least.
    assert!((0.01..=ALPHA).contains(&rate), "{passed} of {RUNS} runs");
}

#[test]
fn what_differs_as_often_by_itself_is_not_called_larger() {
    assert!(is_larger((30, 30), (0, 30), 0.01, ALPHA));
    assert!(!is_larger((30, 30), (30, 30), 0.01, ALPHA));
    assert!(!is_larger((1, 30), (0, 30), 0.01, ALPHA));
    let mut rng = StdRng::seed_from_u64(7);
    let mut draw = |n: u64, rate: f64| (0..n).filter(|_| rng.random_bool(rate)).count() as u64;
    let wrong =
        (0..RUNS).filter(|_| is_larger((draw(300, 0.4), 300), (draw(40, 0.4), 40), 0.0, ALPHA)).count();
    assert!(wrong as f64 / f64::from(RUNS) <= ALPHA, "{wrong} of {RUNS}");
}

#[test]
fn quantiles_lie_where_they_are_said_to() {
    assert_eq!(quantile_ranks(10, 0.99, ALPHA), None);
    let (low, high) = quantile_ranks(1_000, 0.5, ALPHA).unwrap_or_default();
    assert!((460..=475).contains(&low) && (525..=540).contains(&high), "{low} {high}");
    let mut rng = StdRng::seed_from_u64(99);
    let mut window = Window::default();
    for _ in 0..2_000 {
        let base: f64 = rng.random_range(0.010..0.020);
        window.took(base, base * 1.5);
    }
    let median =
        window.quantiles(0.5).map(|it| (it.ratio, it.ratio_low.unwrap_or(0.0), it.ratio_high.unwrap_or(0.0)));
    let (ratio, low, high) = median.unwrap_or_default();
    assert!(
        (1.35..1.65).contains(&ratio) && low < 1.5 && 1.5 < high && high - low < 0.4,
        "{ratio} {low} {high}"
    );
}
