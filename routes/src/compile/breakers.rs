//! Breakers and outliers of backends: raw -> checked.
//!
//! Input: what a backend says of them. Output: rules with every default filled in. Must not: know how calls are counted.

use super::Lowering;
use crate::backend::{BreakerRule, OutlierRule};
use crate::file;
use crate::units::Span;
use std::fmt;
use std::time::Duration;

/// Half of the calls failed; also, half of the addresses left out.
const FAILED_PPM: u32 = 500_000;
const SLOW_PPM: u32 = 800_000;
const OPEN_FOR: Duration = Duration::from_secs(5);
const OPEN_MAX: Duration = Duration::from_secs(120);

impl Lowering {
    pub(super) fn breaker(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Breaker,
    ) -> BreakerRule {
        let span = |span: Option<Span>, default: Duration| span.map_or(default, |span| span.0);
        let (open_for, open_max) = (span(raw.open_for, OPEN_FOR), span(raw.open_max, OPEN_MAX));
        let zero = [
            ("window", raw.window.is_some_and(|it| it.0.is_zero())),
            ("open_for", open_for.is_zero()),
            ("probes", raw.probes == Some(0)),
            ("failure_rate", raw.failure_rate.is_some_and(|it| it.0.get() == 0)),
            ("slow_rate", raw.slow_rate.is_some_and(|it| it.0.get() == 0)),
        ];
        for (field, _) in zero.iter().filter(|(_, zero)| *zero) {
            let path = format_args!("{at}.breaker.{field}");
            self.error("breaker_zero", file, path, format!("`{field}` is zero"), "more than nothing");
        }
        if open_max < open_for {
            let path = format_args!("{at}.breaker.open_max");
            self.error("breaker_open_max", file, path, "it is shorter than `open_for`", "at least as long");
        }
        if raw.slow_rate.is_some() && raw.slow_call.is_none() {
            let path = format_args!("{at}.breaker.slow_rate");
            self.error(
                "breaker_slow_rate",
                file,
                path,
                "nothing is slow without `slow_call`",
                "`slow_call: 2s`",
            );
        }
        let slow_ppm = raw.slow_rate.map_or(SLOW_PPM, |rate| rate.0.get());
        BreakerRule {
            failures: raw.failures.unwrap_or(5),
            failure_ppm: raw.failure_rate.map_or(FAILED_PPM, |rate| rate.0.get()),
            slow: raw.slow_call.map(|slow| (slow.0, slow_ppm)),
            window: span(raw.window, Duration::from_secs(10)),
            min_calls: raw.min_calls.unwrap_or(20),
            open_for,
            open_max,
            probes: raw.probes.unwrap_or(3),
            observe: raw.observe.unwrap_or(false),
            shared: raw.shared.unwrap_or(false),
        }
    }

    pub(super) fn outliers(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Outliers,
    ) -> OutlierRule {
        if raw.failures == Some(0) || raw.eject_for.is_some_and(|it| it.0.is_zero()) {
            let path = format_args!("{at}.outliers");
            self.error(
                "outliers_zero",
                file,
                path,
                "zero failures, or no time",
                "`failures: 5, eject_for: 10s`",
            );
        }
        OutlierRule {
            failures: raw.failures.unwrap_or(5),
            eject_for: raw.eject_for.map_or(Duration::from_secs(10), |span| span.0),
            max_ejected_ppm: raw.max_ejected.map_or(FAILED_PPM, |part| part.0.get()),
        }
    }
}
