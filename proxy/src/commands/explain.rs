//! `banyan explain`: where one request goes by the rules of a directory, and why.
//!
//! Input: rules, a method, a URL, headers. Output: text or JSON. Must not: know kills or health; ask the API of a running
//! proxy for those.

use crate::commands::check::load_or_report;
use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use banyan_routes::egress::{Caller, EgressRule, Wanted};
use banyan_routes::explain::{explain, show};
use banyan_routes::explain_egress::{explain_egress, show_egress};
use banyan_routes::request_line::OwnedRequest;
use banyan_routes::rule_tests::rules_alone;
use clap::Args;
use std::net::IpAddr;
use std::path::Path;

pub struct Question<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub headers: &'a [String],
    pub listener: &'a str,
    pub client_ip: Option<IpAddr>,
    pub caller: CallerFlags,
}

/// Who asks to be let out, beside its address.
#[derive(Debug, Default, Args)]
pub struct CallerFlags {
    /// Its VPC endpoint.
    #[arg(long, env = "BANYAN_VPCE", value_name = "ID")]
    vpce: Option<String>,
    /// A part of its certificate's subject, such as `CN=notify`.
    #[arg(long, env = "BANYAN_CLIENT_CERT", value_name = "PART")]
    client_cert: Vec<String>,
    /// The plan of the API key it shows.
    #[arg(long, env = "BANYAN_PLAN", value_name = "NAME")]
    plan: Option<String>,
}

pub fn run(dir: &Path, question: &Question<'_>, json: bool) -> Exit {
    let rules = match load_or_report(dir, json) {
        Ok(rules) => rules,
        Err(exit) => return exit,
    };
    if question.method.eq_ignore_ascii_case("connect") {
        return egress(&rules.table.egress, question, json);
    }
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

fn egress(rules: &[EgressRule], question: &Question<'_>, json: bool) -> Exit {
    let flags = &question.caller;
    let caller = Caller {
        address: question.client_ip,
        endpoint: flags.vpce.as_deref().map(Into::into),
        subject: flags.client_cert.clone(),
        plan: flags.plan.as_deref().map(Into::into),
    };
    let target = question.url.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    let wanted = match (question.url, target) {
        ("-", _) => Wanted::Nothing,
        (_, Some((host, Ok(port)))) => Wanted::Both(host, port),
        (name, None) => Wanted::Name(name),
        (_, Some((_, Err(_)))) => {
            eprintln!("banyan: `{}` is no destination; expected host:port, a name, or -", question.url);
            return Exit::Usage;
        }
    };
    if question.listener.is_empty() {
        eprintln!("banyan: egress rules are a listener's; expected --listener NAME");
        return Exit::Usage;
    }
    let told = explain_egress(rules, question.listener, &caller, wanted);
    if json {
        say!("{}", serde_json::to_string_pretty(&told).unwrap_or_default());
    } else {
        say_raw!("{}", show_egress(&told));
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
