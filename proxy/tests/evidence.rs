//! What comparisons prove: the bound, against published figures and by simulation.

use banyan::evidence::clopper_pearson_upper;

#[test]
fn bounds_are_the_published_ones() {
    // With no mismatch: 299 samples prove 99 %, 2,995 prove 99.9 %, 29,956 prove 99.99 %, one less each does not.
    for (k, n, allowed) in
        [(0, 299, 0.01), (0, 2_995, 0.001), (0, 29_956, 0.0001), (1, 4_742, 0.001), (5, 10_511, 0.001)]
    {
        assert!(clopper_pearson_upper(k, n, 0.05) <= allowed, "{k} of {n}");
        assert!(clopper_pearson_upper(k, n - 1, 0.05) > allowed, "{k} of {}", n - 1);
    }
    assert!((clopper_pearson_upper(0, 0, 0.05) - 1.0).abs() < f64::EPSILON);
    assert!((clopper_pearson_upper(7, 7, 0.05) - 1.0).abs() < f64::EPSILON);
    // R: qbeta(0.95, 4, 97) = 0.07571, the upper bound of 3 in 100.
    assert!((clopper_pearson_upper(3, 100, 0.05) - 0.075_71).abs() < 5e-5);
}

#[test]
fn a_worse_system_passes_in_at_most_five_runs_of_a_hundred() {
    // splitmix64, so that the runs are the same everywhere.
    let mut state = 20_261_123u64;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    };
    const RUNS: u32 = 10_000;
    let passed = (0..RUNS)
        .filter(|_| {
            let mismatches = (0..500).filter(|_| uniform() < 0.0101).count() as u64;
            clopper_pearson_upper(mismatches, 500, 0.05) <= 0.01
        })
        .count();
    assert!(f64::from(passed as u32) / f64::from(RUNS) <= 0.05, "{passed} of {RUNS} runs");
}
