//! `banyan explain`: where one request goes by the rules of a directory, and why.
//!
//! Input: rules, a method, a URL, headers. Output: text or JSON. Must not: know kills or health; ask the API of a running
//! proxy for those.

use crate::commands::check::load_or_report;
use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use banyan_routes::explain::{explain, show};
use banyan_routes::request_line::OwnedRequest;
use banyan_routes::rule_tests::rules_alone;
use std::net::IpAddr;
use std::path::Path;

pub struct Question<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub headers: &'a [String],
    pub listener: &'a str,
    pub client_ip: Option<IpAddr>,
}

pub fn run(dir: &Path, question: &Question<'_>, json: bool) -> Exit {
    let rules = match load_or_report(dir) {
        Ok(rules) => rules,
        Err(exit) => return exit,
    };
    let request = match request(question) {
        Ok(request) => request,
        Err(error) => {
            eprintln!("banyan: {error}");
            return Exit::Usage;
        }
    };
    let told = explain(&rules.table, &request, rules_alone);
    if json {
        say!("{}", serde_json::to_string_pretty(&told).unwrap_or_default());
    } else {
        say_raw!("{}", show(&told));
    }
    Exit::Ok
}

fn request(question: &Question<'_>) -> Result<OwnedRequest, String> {
    let mut request = OwnedRequest::new(question.method, question.url)?;
    for header in question.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("`{header}` is not a header; expected `Name: value`"))?;
        request.header(name, value)?;
    }
    request.listener = question.listener.to_owned();
    request.client_ip = question.client_ip;
    Ok(request)
}
