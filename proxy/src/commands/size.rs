//! `banyan size`: how few addresses it takes.
//!
//! Input: rates, times and limits. Output: figures as text or JSON, or a picture of them as SVG. Must not: calculate; `banyan_routes::size` does.

use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use banyan_routes::size::{Load, Size, size};
use banyan_routes::units::Span;
use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Svg,
}

#[derive(Debug, Args)]
pub struct LoadFlags {
    /// Calls a second, all functions together.
    #[arg(long, env = "BANYAN_RATE")]
    rate: f64,
    /// Of one call on-prem, such as `50ms`.
    #[arg(long, env = "BANYAN_SERVICE_TIME", value_name = "SPAN")]
    service_time: Span,
    /// Connections that the on-prem host takes.
    #[arg(long, env = "BANYAN_LEGACY_LIMIT", value_name = "N")]
    legacy_limit: u64,
    #[arg(long, env = "BANYAN_AZS", default_value_t = 2, value_name = "N")]
    azs: u64,
    /// How many times as many proxies there are while they are replaced.
    #[arg(long, env = "BANYAN_SURGE", default_value_t = 2, value_name = "N")]
    surge: u64,
    /// Calls a second that one proxy carries.
    #[arg(long, env = "BANYAN_RATE_PER_PROXY", default_value_t = 5000.0, value_name = "RATE")]
    rate_per_proxy: f64,
    /// Requests at one time on a connection; 1 with HTTP/1.
    #[arg(long, env = "BANYAN_STREAMS", default_value_t = 1, value_name = "N")]
    streams: u64,
    /// Addresses a proxy connects from.
    #[arg(long, env = "BANYAN_SOURCES", default_value_t = 1, value_name = "N")]
    sources: u64,
    /// Addresses and ports of the on-prem host.
    #[arg(long, env = "BANYAN_DESTINATIONS", default_value_t = 1, value_name = "N")]
    destinations: u64,
    /// Instances of functions at one time.
    #[arg(long, env = "BANYAN_FUNCTIONS", default_value_t = 1000, value_name = "N")]
    functions: u64,
    /// Memory of each, in GB.
    #[arg(long, env = "BANYAN_MEMORY_GB", default_value_t = 1.0, value_name = "GB")]
    memory_gb: f64,
    #[arg(long, env = "BANYAN_FUNCTION_SUBNETS", default_value_t = 2, value_name = "N")]
    function_subnets: u64,
    #[arg(long, env = "BANYAN_SECURITY_GROUPS", default_value_t = 1, value_name = "N")]
    security_groups: u64,
}

impl From<LoadFlags> for Load {
    fn from(it: LoadFlags) -> Load {
        Load {
            rate: it.rate,
            service_time: it.service_time.0.as_secs_f64(),
            legacy_limit: it.legacy_limit,
            azs: it.azs,
            surge: it.surge,
            rate_per_proxy: it.rate_per_proxy,
            streams: it.streams,
            sources: it.sources,
            destinations: it.destinations,
            functions: it.functions,
            memory_gb: it.memory_gb,
            function_subnets: it.function_subnets,
            security_groups: it.security_groups,
        }
    }
}

pub fn run(load: &Load, format: Format) -> Exit {
    let size = match size(load) {
        Ok(size) => size,
        Err(error) => {
            eprintln!("banyan: {error}");
            return Exit::Usage;
        }
    };
    match format {
        Format::Text => say_raw!("{}", text(load, &size)),
        Format::Json => {
            let both = serde_json::json!({ "version": 1, "load": load, "size": size });
            say!("{}", serde_json::to_string_pretty(&both).unwrap_or_default());
        }
        Format::Svg => say_raw!("{}", svg(load, &size)),
    }
    Exit::Ok
}

fn text(load: &Load, it: &Size) -> String {
    let rows = [
        ("calls on-prem at one time", format!("{:.1}", it.concurrent_calls)),
        ("pooled connections", it.pooled_connections.to_string()),
        (
            "proxies",
            format!("{} in {} zones, {} while they are replaced", it.proxies, load.azs, it.proxies_at_surge),
        ),
        (
            "connections of each proxy",
            format!(
                "{}; cap {} of the {} on-prem takes",
                it.connections_per_proxy, it.cap_per_proxy, load.legacy_limit
            ),
        ),
        ("ports of each proxy", format!("{} to a destination", it.ports_per_proxy)),
        ("addresses in each zone", format!("{}: a /{}", it.addresses_per_az, it.subnet_prefix)),
        ("all zones", format!("a /{}: {} addresses", it.prefix, it.addresses)),
        (
            "by the rule of 2018",
            format!(
                "{} addresses, for {} functions of {} GB",
                it.addresses_2018, load.functions, load.memory_gb
            ),
        ),
        ("shared interfaces today", format!("{}, in the functions' own subnets", it.interfaces_now)),
    ];
    let mut out = String::new();
    for (name, value) in rows {
        out.push_str(&format!("{name:<28}{value}\n"));
    }
    it.warnings.iter().for_each(|warning| out.push_str(&format!("warning: {warning}\n")));
    out
}

/// The way of a call, and the addresses beside each other.
fn svg(load: &Load, it: &Size) -> String {
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 360\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"900\" height=\"360\" fill=\"#fff\"/>\n",
    );
    let boxes = [
        (
            "functions",
            format!("{} of {} GB", load.functions, load.memory_gb),
            format!("{}/s of {} ms", load.rate, load.service_time * 1000.0),
        ),
        ("endpoint, balancer", format!("{} zones", load.azs), "PROXY protocol".into()),
        (
            "proxies",
            format!("{} ({} at surge)", it.proxies, it.proxies_at_surge),
            format!("a /{}", it.prefix),
        ),
        ("on-prem", format!("{} connections", it.pooled_connections), format!("limit {}", load.legacy_limit)),
    ];
    for (at, (title, first, second)) in boxes.iter().enumerate() {
        let x = 20 + at * 225;
        let middle = x + 92;
        out.push_str(&format!(
            "<rect x=\"{x}\" y=\"30\" width=\"185\" height=\"92\" rx=\"6\" fill=\"#eef3f8\" stroke=\"#456\"/>\n<text x=\"{middle}\" y=\"55\" text-anchor=\"middle\" font-weight=\"bold\">{title}</text>\n<text x=\"{middle}\" y=\"80\" text-anchor=\"middle\">{first}</text>\n<text x=\"{middle}\" y=\"102\" text-anchor=\"middle\">{second}</text>\n"
        ));
        if at > 0 {
            out.push_str(&format!(
                "<path d=\"M{} 76h34m-8 -6l8 6l-8 6\" fill=\"none\" stroke=\"#456\"/>\n",
                x - 38
            ));
        }
    }
    let bars = [
        ("rule of 2018", it.addresses_2018),
        ("shared interfaces", it.interfaces_now),
        ("this way, routable", it.addresses),
    ];
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (at, (name, count)) in bars.iter().enumerate() {
        let y = 175 + at * 50;
        let width = (*count as f64 / most as f64 * 560.0).max(2.0);
        out.push_str(&format!(
            "<text x=\"20\" y=\"{}\">{name}</text>\n<rect x=\"190\" y=\"{y}\" width=\"{width:.1}\" height=\"26\" fill=\"#5b8db8\"/>\n<text x=\"{:.1}\" y=\"{}\">{count}</text>\n",
            y + 18,
            200.0 + width,
            y + 18
        ));
    }
    out.push_str(
        "<text x=\"20\" y=\"345\" fill=\"#666\">addresses; calculated by banyan size</text>\n</svg>\n",
    );
    out
}
