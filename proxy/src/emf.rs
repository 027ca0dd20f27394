//! Embedded metrics for CloudWatch: one `_aws` object for each route with traffic and period.
//!
//! Input: what routes have counted. Output: JSON lines, which CloudWatch Logs turns into metrics. Must not: say a figure of a route that nobody
//! asked for, or be in the way of a request. Source: CloudWatch embedded metric format specification.

use crate::access_log::{Line, LogSender, quoted};
use crate::figures::{Count, Figures};
use crate::live::Live;
use crate::settings::Emf;
use banyan_routes::ids::Side;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Routes that are written for in one period: CloudWatch asks money for each of their metrics.
const ROUTES_MAX: usize = 500;

/// By side: how many answers, how many failed, and where its latencies lie.
const NAMES: [[&str; 4]; 2] = [
    ["LegacyRequests", "LegacyFailures", "LegacyLatencyP50", "LegacyLatencyP95"],
    ["ServerlessRequests", "ServerlessFailures", "ServerlessLatencyP50", "ServerlessLatencyP95"],
];

/// Writes once a period, for ever.
pub async fn run(emf: Emf, log: LogSender, live: impl Fn() -> Option<Arc<Live>>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + emf.every, emf.every);
    let mut before: HashMap<Box<str>, Count> = HashMap::new();
    let mut at = Instant::now();
    loop {
        ticks.tick().await;
        let Some(live) = live() else { continue };
        let seconds = at.elapsed().as_secs_f64();
        at = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut counts, mut written) = (HashMap::new(), 0);
        let serving = &live.serving;
        for (number, (route, runtime)) in serving.table.routes.iter().zip(&serving.routes).enumerate() {
            let count = Count::of(runtime);
            if count == Count::default() {
                continue;
            }
            let earlier = before.get(&route.id).copied().unwrap_or_default();
            if count.answered != earlier.answered && written < ROUTES_MAX {
                written += 1;
                let share = live.conditions(number as u32, route, None).share.ratio();
                let revision = serving.table.revision.as_str();
                let about = About { route: &route.id, stage: route.stage.as_str(), revision, share };
                log.send(|line| object(line, &emf.namespace, now, &about, &earlier, &count, seconds));
            }
            counts.insert(route.id.clone(), count);
        }
        before = counts;
    }
}

struct About<'a> {
    route: &'a str,
    stage: &'a str,
    revision: &'a str,
    share: f64,
}

fn object(
    line: &mut Line<'_>,
    namespace: &str,
    now: Duration,
    about: &About<'_>,
    earlier: &Count,
    later: &Count,
    seconds: f64,
) {
    let (mut declared, mut values) =
        (vec![r#"{"Name":"SharePercent","Unit":"Percent"}"#.to_owned()], Vec::new());
    for side in Side::ALL {
        let at = side.index();
        let answered = later.answered[at].saturating_sub(earlier.answered[at]);
        if answered == 0 {
            continue;
        }
        let failed = later.failed[at].saturating_sub(earlier.failed[at]);
        let figures = Figures::between(earlier, later, seconds, side);
        let [requests, failures, p50, p95] = NAMES[at];
        for (name, count) in [(requests, answered), (failures, failed)] {
            declared.push(format!(r#"{{"Name":"{name}","Unit":"Count"}}"#));
            values.push((name, count as f64));
        }
        for (name, latency) in [(p50, figures.p50), (p95, figures.p95)] {
            declared.push(format!(r#"{{"Name":"{name}","Unit":"Milliseconds"}}"#));
            values.push((name, f64::from(latency.unwrap_or_default()) * 1_000.0));
        }
    }
    let metrics = declared.join(",");
    let aws = format!(
        r#"{{"Timestamp":{},"CloudWatchMetrics":[{{"Namespace":"{namespace}","Dimensions":[["route"]],"Metrics":[{metrics}]}}]}}"#,
        now.as_millis()
    );
    line.raw("_aws", &aws);
    line.clean(quoted!("route"), about.route);
    line.clean(quoted!("stage"), about.stage);
    line.clean(quoted!("revision"), about.revision);
    line.raw("SharePercent", &format!("{}", about.share * 100.0));
    values.into_iter().for_each(|(name, value)| line.raw(name, &format!("{value:.3}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::line;
    use serde_json::{Value, json};

    #[test]
    fn an_object_declares_every_metric_it_holds_and_no_other() {
        let earlier = Count::default();
        let later = Count { answered: [40, 0], failed: [2, 0], ..earlier };
        let about = About { route: "orders", stage: "ramp", revision: "abc", share: 0.25 };
        let now = Duration::from_millis(1_700);
        let bytes = line(|line| object(line, "Banyan", now, &about, &earlier, &later, 60.0));
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!((&value["_aws"]["Timestamp"], &value["route"]), (&json!(1_700), &json!("orders")));
        let directive = &value["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Dimensions"], json!([["route"]]));
        for metric in directive["Metrics"].as_array().expect("metrics") {
            assert!(value[metric["Name"].as_str().expect("a name")].is_number(), "{metric}");
        }
        assert_eq!(
            (value["LegacyRequests"].as_f64(), value["LegacyFailures"].as_f64()),
            (Some(40.0), Some(2.0))
        );
        assert_eq!(
            (value["SharePercent"].as_f64(), &value["ServerlessRequests"]),
            (Some(25.0), &Value::Null)
        );
    }
}
