//! What counts prove: bounds on a rate, bounds that may be looked at all the time, and quantiles beside each other.
//!
//! Input: counts. Output: bounds. Must not: say anything of an empty sample but that nothing is known (law 6).

use statrs::function::beta::{beta_reg, ln_beta};

/// Halvings that go beyond the digits of a double.
const HALVINGS: u32 = 60;

/// The one-sided upper bound of Clopper and Pearson: the rate at which `k` or fewer of `n` would be seen with chance `alpha`.
/// Source: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934).
pub fn clopper_pearson_upper(k: u64, n: u64, alpha: f64) -> f64 {
    if n == 0 || k >= n {
        return 1.0;
    }
    if k == 0 {
        return 1.0 - alpha.powf(1.0 / n as f64);
    }
    let (a, b) = ((k + 1) as f64, (n - k) as f64);
    least(k as f64 / n as f64, |p| beta_reg(a, b, p) >= 1.0 - alpha)
}

/// The one-sided lower bound.
pub fn clopper_pearson_lower(k: u64, n: u64, alpha: f64) -> f64 {
    if k == 0 || n == 0 { 0.0 } else { 1.0 - clopper_pearson_upper(n - k, n, alpha) }
}

/// An upper bound that holds at every look at once: the chance that it is ever below the true rate is at most `alpha`.
///
/// For a rate `p` the likelihood of what was seen, averaged over all rates below `p` alike, is set against its likelihood at `p`; that
/// ratio is a martingale when `p` is true, and reaches `1 / alpha` with a chance of at most `alpha` (Ville). Source: H. Robbins,
/// Annals of Mathematical Statistics 41 (1970); S. R. Howard et al., Annals of Statistics 49 (2021).
pub fn anytime_upper(k: u64, n: u64, alpha: f64) -> f64 {
    if n == 0 || k >= n {
        return 1.0;
    }
    least(k as f64 / n as f64, |p| log_evidence(k, n, p) >= -alpha.ln())
}

/// Whether `anytime_upper` is at most `p`, in one step.
pub fn anytime_proves(k: u64, n: u64, p: f64, alpha: f64) -> bool {
    n > 0 && k < n && p > k as f64 / n as f64 && log_evidence(k, n, p) >= -alpha.ln()
}

/// The logarithm of the evidence that the rate is below `p`.
fn log_evidence(k: u64, n: u64, p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    let (a, b) = ((k + 1) as f64, (n - k + 1) as f64);
    let below = beta_reg(a, b, p);
    if below <= 0.0 {
        return f64::NEG_INFINITY;
    }
    ln_beta(a, b) + below.ln() - p.ln() - k as f64 * p.ln() - (n - k) as f64 * (-p).ln_1p()
}

/// The least rate from `low` on for which `is` holds; it holds for all above it.
fn least(low: f64, is: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (low, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if is(middle) { high = middle } else { low = middle }
    }
    high
}

/// Samples without a difference that prove a rate of at most `rate`, when they are looked at once.
pub fn samples_needed(rate: f64, alpha: f64) -> u64 {
    (alpha.ln() / (-rate).ln_1p()).ceil() as u64
}

/// Whether one rate is larger than the other by more than `threshold`, both seen in samples of their own. Conservative: each bound
/// takes half of `alpha`.
pub fn is_larger((k, n): (u64, u64), (other_k, other_n): (u64, u64), threshold: f64, alpha: f64) -> bool {
    clopper_pearson_lower(k, n, alpha / 2.0) - clopper_pearson_upper(other_k, other_n, alpha / 2.0)
        > threshold
}

/// Ranks, from 0, between which the `q`-quantile of `n` samples lies with a confidence of 1 - `alpha`, by the normal approximation of
/// the binomial; `None` when there are too few to say.
pub fn quantile_ranks(n: u64, q: f64, alpha: f64) -> Option<(u64, u64)> {
    let spread = normal_quantile(1.0 - alpha / 2.0) * (n as f64 * q * (1.0 - q)).sqrt();
    let middle = n as f64 * q;
    let (low, high) = ((middle - spread).floor(), (middle + spread).ceil());
    (low >= 0.0 && high < n as f64).then_some((low as u64, high as u64))
}

fn normal_quantile(p: f64) -> f64 {
    std::f64::consts::SQRT_2 * statrs::function::erf::erf_inv(2.0 * p - 1.0)
}
