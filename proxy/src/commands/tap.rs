//! `banyan tap`: decisions as they are made, filtered by the proxy.
//!
//! Input: the admin API's stream. Output: a line for each request, or the API's JSON lines. Must not: end before it is told to, or before its count.

use crate::admin_client::{AdminClient, Unreachable, escaped};
use crate::commands::remote::{finish, plain, refused};
use crate::exit::Exit;
use crate::say;
use serde_json::Value;

/// What is wanted of all requests.
pub struct Wanted {
    pub route: Option<String>,
    pub side: Option<String>,
    pub reason: Option<String>,
    pub status: Option<String>,
    pub count: Option<u64>,
}

impl Wanted {
    fn path(&self) -> String {
        let count = self.count.map(|count| count.to_string());
        let fields = [
            ("route", &self.route),
            ("side", &self.side),
            ("reason", &self.reason),
            ("status", &self.status),
            ("count", &count),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        format!("/api/v1/tap?{}", query.join("&"))
    }
}

pub fn run(client: &AdminClient, json: bool, wanted: &Wanted) -> Exit {
    let mut left = wanted.count;
    let each = |line: &str| {
        if line.is_empty() {
            return true;
        }
        if let Some(left) = &mut left {
            *left -= u64::from(!line.starts_with("{\"dropped\"")).min(*left);
        }
        if json {
            say!("{line}");
        } else if let Ok(value) = serde_json::from_str(line) {
            say!("{}", told(&value));
        }
        true
    };
    let ended = client.stream(&wanted.path(), each);
    finish(ended.and_then(|(status, value)| match status {
        200 if left == Some(0) => Ok(Exit::Ok),
        200 => Err(Unreachable(
            "the stream ended: the proxy has stopped, or the tap was open for an hour".into(),
        )),
        status => Ok(refused(status, &value, json)),
    }))
}

/// `12:03:04.123 200 GET /orders/42 orders serverless bucket 12.3 ms`
fn told(line: &Value) -> String {
    if let Some(dropped) = line["dropped"].as_u64() {
        return format!("... {dropped} more, for which this reader was too slow");
    }
    let text = |field: &str| plain(&line[field]);
    let time =
        line["time"].as_f64().and_then(|at| jiff::Timestamp::from_millisecond((at * 1000.0) as i64).ok());
    let time = time.map_or_else(String::new, |at| at.strftime("%H:%M:%S%.3f").to_string());
    let took = line["duration"].as_f64().unwrap_or_default() * 1_000.0;
    let cause =
        line["cause"].as_str().map(|cause| format!(" ({})", plain(&cause.into()))).unwrap_or_default();
    format!(
        "{time} {} {} {}{} {} {} {} {took:.1} ms{cause}",
        text("http.response.status_code"),
        text("http.request.method"),
        text("server.address"),
        text("url.path"),
        text("route"),
        text("side"),
        text("reason"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_what_was_decided_and_moves_no_cursor() {
        let line = json!({
            "time": 1_700_000_000.25, "http.response.status_code": 502, "http.request.method": "GET", "server.address": "shop.example.com",
            "url.path": "/a\u{1b}[2J", "route": "orders", "side": "serverless", "reason": "bucket", "duration": 0.0123, "cause": "backend_timeout",
        });
        let expected =
            "22:13:20.250 502 GET shop.example.com/a?[2J orders serverless bucket 12.3 ms (backend_timeout)";
        assert_eq!(told(&line), expected);
        assert!(told(&json!({ "dropped": 7 })).contains('7'));
    }

    #[test]
    fn filters_are_one_query() {
        let wanted = Wanted {
            route: Some("a".into()),
            side: None,
            reason: None,
            status: Some("5xx".into()),
            count: Some(2),
        };
        assert_eq!(wanted.path(), "/api/v1/tap?route=a&status=5xx&count=2");
    }
}
