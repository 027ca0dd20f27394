//! Process-level settings: raw YAML and flags -> checked. Changing one needs a restart; everything else is rules, and hot.
//!
//! Input: a settings file and the flags of `run`. Output: `Settings` with paths resolved against the file's folder. Must
//! not: open the files it names, except to read the override key.

mod api_keys;
mod authorizers;
mod issuers;
mod limits;
mod observe;
mod secrets;
mod state;
mod tokens;
mod resolvers;
mod webhooks;

pub use api_keys::{ApiKey, ApiKeys};
pub use authorizers::Authorizer;
pub use issuers::{Issuer, KeySet};
pub use limits::Limits;
pub use observe::{Emf, LogTarget, Observe};
pub use secrets::Digest;
pub use state::FleetSettings;
pub use tokens::{Bearer, Role, Tokens};
pub use webhooks::{Event, Webhook};

use crate::aws::endpoint::{AwsSettings, Price};
use crate::aws::secrets::Secrets;
use crate::client::dns::Zone;
use banyan_routes::backend::Origin;
use banyan_routes::locate::locate;
use banyan_routes::units::Span;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    #[serde(default)]
    listeners: Vec<RawListener>,
    admin: Option<RawAdmin>,
    rules: Option<RawRules>,
    state: Option<state::RawState>,
    threads: Option<usize>,
    #[serde(default)]
    limits: limits::RawLimits,
    #[serde(default)]
    logs: observe::RawLogs,
    tracing: Option<observe::RawTracing>,
    attribution_header: Option<bool>,
    #[serde(default)]
    underscore_headers: UnderscoreHeaders,
    override_key: Option<PathBuf>,
    api_keys: Option<PathBuf>,
    #[serde(default)]
    issuers: Vec<issuers::RawIssuer>,
    #[serde(default)]
    authorizers: Vec<authorizers::RawAuthorizer>,
    #[serde(default)]
    trusted_proxies: Vec<IpNet>,
    #[serde(default)]
    aws: RawAws,
    #[serde(default)]
    drain: RawDrain,
    #[serde(default)]
    webhooks: Vec<webhooks::RawWebhook>,
    #[serde(default)]
    resolvers: Vec<resolvers::RawResolver>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListener {
    name: String,
    address: SocketAddr,
    tls: Option<RawTls>,
    #[serde(default)]
    h2: bool,
    #[serde(default)]
    h2c: bool,
    proxy_protocol: Option<RawProxyProtocol>,
    #[serde(default)]
    mode: Mode,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Http,
    Connect,
    Tcp,
    TlsPassthrough,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProxyProtocol {
    from: Vec<IpNet>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdmin {
    address: Option<SocketAddr>,
    tokens: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    dir: Option<PathBuf>,
    watch: Option<Watch>,
}

/// How changes of the rule directory are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Kernel events, with a slow poll behind them.
    #[default]
    Notify,
    /// Looking once a second: for NFS and EFS, where no events come.
    Poll,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAws {
    region: Option<String>,
    endpoint_url: Option<String>,
    #[serde(default)]
    prices: BTreeMap<String, RawPrice>,
}

/// In any currency; one region's prices, or `default`'s.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    requests_per_million: f64,
    gb_second: f64,
    gb_second_arm64: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDrain {
    delay: Option<Span>,
    deadline: Option<Span>,
}

/// Where it listens when nothing is said: nowhere that others could reach.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// One address clients come in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    pub tls: Option<ListenerTls>,
    pub h2: bool,
    pub h2c: bool,
    /// Where balancers are that say whom a connection is from; each must.
    pub proxy_protocol: Option<Vec<IpNet>>,
    pub mode: Mode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// What becomes of headers whose names hold an underscore: many backends read `X_Tenant` as `X-Tenant`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnderscoreHeaders {
    #[default]
    Drop,
    /// All but those that would pass for a header that says who somebody is, or where a message ends.
    Keep,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    pub admin: SocketAddr,
    /// Who may use it; `None`: whoever calls from this machine.
    pub tokens: Option<PathBuf>,
    /// `None`: state is this process's own.
    pub fleet: Option<FleetSettings>,
    pub webhooks: Vec<Webhook>,
    pub zones: Vec<Zone>,
    pub rules_dir: PathBuf,
    pub watch: Watch,
    pub state_dir: PathBuf,
    pub threads: usize,
    pub limits: Limits,
    pub observe: Observe,
    pub attribution_header: bool,
    pub underscore_headers: UnderscoreHeaders,
    pub override_key: Option<Vec<u8>>,
    /// Keys of clients, for routes that require one.
    pub api_keys: Option<PathBuf>,
    /// Of tokens, for routes that require one or read its claims.
    pub issuers: Vec<Issuer>,
    /// Who is asked, for routes that require it.
    pub authorizers: Vec<Authorizer>,
    pub trusted_proxies: Vec<IpNet>,
    /// After TERM: how long the listeners stay open so that the load balancer sees the failing readiness first.
    pub drain_delay: Duration,
    /// After the listeners are closed: how long requests in flight may take.
    pub drain_deadline: Duration,
    pub aws: AwsSettings,
}

/// What `run` was told on the command line; beats the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub listen: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub rules: Option<PathBuf>,
    pub state: Option<PathBuf>,
    pub attribution: bool,
}

/// What is wrong with the settings: place and text, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

impl Settings {
    /// The file (when given), then the flags over it.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Settings, SettingsError> {
        let (raw, base, name) = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| SettingsError(format!("{}: {error}", path.display())))?;
                let raw =
                    parse(&text).map_err(|error| SettingsError(format!("{}:{error}", path.display())))?;
                (raw, path.parent().unwrap_or(Path::new("")).to_owned(), path.display().to_string())
            }
            None => (parse("version: 1").map_err(SettingsError)?, PathBuf::new(), "settings".to_owned()),
        };
        lower(raw, &base, flags).map_err(|error| SettingsError(format!("{name}: {error}")))
    }
}

fn parse(text: &str) -> Result<Raw, String> {
    let raw: Raw =
        serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
            let place = locate(text).nearest(&error.path().to_string());
            format!("{}:{}: {}: {}", place.line, place.column, error.path(), error.inner())
        })?;
    if raw.version == 1 {
        Ok(raw)
    } else {
        Err(format!("1:1: version {} is not known; expected version: 1", raw.version))
    }
}

fn lower(raw: Raw, base: &Path, flags: &Flags) -> Result<Settings, String> {
    let resolve = |path: PathBuf| if path.is_absolute() { path } else { base.join(path) };
    let mut listeners = Vec::new();
    for listener in raw.listeners {
        listeners.push(self::listener(listener, &resolve)?);
    }
    if !flags.listen.is_empty() {
        let name = |number| if number == 0 { "public".into() } else { format!("public-{}", number + 1) };
        let given = flags.listen.iter().enumerate();
        listeners = given.map(|(number, address)| plain(name(number), *address)).collect();
    }
    if listeners.is_empty() {
        listeners.push(plain("public".into(), LISTEN_DEFAULT));
    }
    for (number, listener) in listeners.iter().enumerate() {
        if listeners[..number].iter().any(|other| other.name == listener.name) {
            return Err(format!(
                "listeners[{number}].name: `{}` is taken; expected a name of its own",
                listener.name
            ));
        }
        let clash = |other: &&Listener| other.address == listener.address && listener.address.port() != 0;
        if let Some(other) = listeners[..number].iter().find(clash) {
            return Err(format!(
                "listeners[{number}].address: {} is taken by listener `{}`",
                listener.address, other.name
            ));
        }
    }
    let admin = raw.admin.unwrap_or(RawAdmin { address: None, tokens: None });
    let tokens = admin.tokens.map(&resolve);
    if let Some(path) = &tokens {
        Tokens::load(path, &Secrets::default()).map_err(|error| format!("admin.tokens: {error}"))?;
    }
    let state = raw.state.unwrap_or_default();
    let fleet = state::lower(&state, &resolve)?;
    let webhooks = webhooks::lower(raw.webhooks, &resolve)?;
    let observe = observe::lower(raw.logs, raw.tracing.unwrap_or_default(), &resolve)?;
    let rules = raw.rules.unwrap_or(RawRules { dir: None, watch: None });
    let threads = raw.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if threads == 0 {
        return Err("threads: 0 threads serve nobody; expected 1 or more".into());
    }
    let override_key = raw.override_key.map(&resolve).map(|path| override_key(&path)).transpose()?;
    let api_keys = raw.api_keys.map(&resolve);
    if let Some(path) = &api_keys {
        ApiKeys::load(path, &Secrets::default()).map_err(|error| format!("api_keys: {error}"))?;
    }
    let issuers = issuers::lower(raw.issuers, &resolve)?;
    let authorizers = authorizers::lower(raw.authorizers)?;
    let aws = aws(raw.aws)?;
    Ok(Settings {
        listeners,
        admin: flags.admin.or(admin.address).unwrap_or(ADMIN_DEFAULT),
        tokens,
        fleet,
        webhooks,
        zones: resolvers::lower(raw.resolvers)?,
        rules_dir: flags.rules.clone().or(rules.dir.map(&resolve)).unwrap_or_else(|| PathBuf::from("rules")),
        watch: rules.watch.unwrap_or_default(),
        state_dir: flags.state.clone().or(state.dir.map(&resolve)).unwrap_or_else(|| PathBuf::from("state")),
        threads,
        limits: raw.limits.lower(),
        observe,
        attribution_header: raw.attribution_header.unwrap_or(false) || flags.attribution,
        underscore_headers: raw.underscore_headers,
        override_key,
        api_keys,
        issuers,
        authorizers,
        trusted_proxies: raw.trusted_proxies,
        aws,
        drain_delay: raw.drain.delay.map_or(Duration::from_secs(1), |span| span.0),
        drain_deadline: raw.drain.deadline.map_or(Duration::from_secs(30), |span| span.0),
    })
}

fn aws(raw: RawAws) -> Result<AwsSettings, String> {
    let endpoint_url = raw.endpoint_url.as_deref().map(Origin::parse).transpose();
    let endpoint_url = endpoint_url.map_err(|error| format!("aws.endpoint_url: {error}"))?;
    let mut prices = Vec::new();
    for (region, price) in raw.prices {
        let gb_second_arm = price.gb_second_arm64.unwrap_or(price.gb_second);
        let all = [price.requests_per_million, price.gb_second, gb_second_arm];
        if all.iter().any(|price| !price.is_finite() || *price < 0.0) {
            return Err(format!("aws.prices.{region}: a price is below zero; expected 0 or more"));
        }
        let RawPrice { requests_per_million, gb_second, .. } = price;
        prices.push(Price { region, requests_per_million, gb_second_x86: gb_second, gb_second_arm });
    }
    Ok(AwsSettings { region: raw.region, endpoint_url, prices })
}

/// A listener for HTTP/1 without TLS.
fn plain(name: String, address: SocketAddr) -> Listener {
    Listener { name, address, tls: None, h2: false, h2c: false, proxy_protocol: None, mode: Mode::Http }
}

fn listener(raw: RawListener, resolve: &impl Fn(PathBuf) -> PathBuf) -> Result<Listener, String> {
    let name = &raw.name;
    if !banyan_routes::ids::valid_name(name) {
        return Err(format!(
            "listeners: `{name}` cannot name a listener; expected letters, digits, `-`, `_` and `.`"
        ));
    }
    if raw.proxy_protocol.as_ref().is_some_and(|it| it.from.is_empty()) {
        return Err(format!(
            "listener `{name}`: proxy_protocol.from is empty; expected the balancers' networks"
        ));
    }
    if raw.mode != Mode::Http && (raw.h2 || raw.h2c) {
        return Err(format!("listener `{name}`: h2 and h2c are for mode http"));
    }
    if matches!(raw.mode, Mode::Tcp | Mode::TlsPassthrough) && raw.tls.is_some() {
        return Err(format!("listener `{name}`: this mode passes bytes on as they are; expected no tls"));
    }
    if raw.h2 && raw.tls.is_none() {
        return Err(format!("listener `{name}`: h2 needs tls; expected `h2c: true` for HTTP/2 without TLS"));
    }
    if raw.h2c && raw.tls.is_some() {
        return Err(format!("listener `{name}`: h2c is HTTP/2 without TLS; expected `h2: true` with tls"));
    }
    let tls = raw.tls.map(|tls| ListenerTls {
        cert: resolve(tls.cert),
        key: resolve(tls.key),
        client_ca: tls.client_ca.map(resolve),
    });
    let proxy_protocol = raw.proxy_protocol.map(|it| it.from);
    let (h2, h2c, mode) = (raw.h2, raw.h2c, raw.mode);
    Ok(Listener { name: raw.name, address: raw.address, tls, h2, h2c, proxy_protocol, mode })
}

/// The key that signs override headers: the file's bytes without the last newline, at least 32.
fn override_key(path: &Path) -> Result<Vec<u8>, String> {
    let mut key =
        std::fs::read(path).map_err(|error| format!("override_key: {}: {error}", path.display()))?;
    while key.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        key.pop();
    }
    if key.len() >= 32 {
        Ok(key)
    } else {
        Err(format!("override_key: {} holds {} bytes; expected 32 or more", path.display(), key.len()))
    }
}
