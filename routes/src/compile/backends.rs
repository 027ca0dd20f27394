//! Backends, cohorts and freezes: raw -> checked.
//!
//! Input: the raw maps of all files. Output: entries in the lowering's tables; a backend with a problem still gets its
//! place, so that routes naming it are not blamed. Must not: resolve names or open files.

use super::{Lowering, ReadFile};
use crate::backend::{Backend, BackendTls, Health, HostMode, Origin, Sources, Target};
use crate::bucket::cohort_seed;
use crate::file::{self, Protocol};
use crate::pattern::HostPattern;
use crate::table::Cohort;
use crate::terms::KeySource;
use std::fmt;
use std::time::Duration;

/// Names that are the same over many files would make "which one" depend on order.
macro_rules! unique {
    ($self:ident, $ids:ident, $what:literal, $code:literal, $files:ident, $field:ident, $file:ident, $name:ident, $value:ident => $body:block) => {
        for ($file, read) in $files.iter().enumerate() {
            for ($name, $value) in read.rules.$field.iter() {
                let path = format_args!(concat!(stringify!($field), ".{}@key"), $name);
                $self.name($what, $file, path, $name);
                if $self.$ids.contains_key($name) {
                    $self.error(
                        $code,
                        $file,
                        path,
                        format!(concat!("a ", $what, " called `{}` exists already"), $name),
                        "a name of its own",
                    );
                    continue;
                }
                $body
            }
        }
    };
}

impl Lowering {
    pub(super) fn backends(&mut self, files: &[ReadFile]) {
        unique!(self, backend_ids, "backend", "backend_duplicate", files, backends, file, name, raw => {
            let backend = self.backend(file, name, raw);
            self.backend_ids.insert(name.into(), self.backends.len() as u32);
            self.backends.push(backend);
        });
    }

    fn backend(&mut self, file: usize, name: &str, raw: &file::Backend) -> Backend {
        let at = format_args!("backends.{name}");
        let target = match (&raw.urls, &raw.lambda) {
            (Some(urls), None) => Target::Urls(self.origins(file, at, urls)),
            (None, Some(_)) => self.lambda(file, at, raw),
            (Some(_), Some(_)) => {
                self.error(
                    "backend_target",
                    file,
                    format_args!("{at}.lambda"),
                    "a backend has `urls` or `lambda`, not both",
                    "one of them",
                );
                Target::Urls(Vec::new())
            }
            (None, None) => {
                self.error(
                    "backend_target",
                    file,
                    at,
                    format!("backend `{name}` leads nowhere"),
                    "`urls` or `lambda`",
                );
                Target::Urls(Vec::new())
            }
        };
        let host = match raw.host.as_deref() {
            Some("preserve") => HostMode::Preserve,
            Some("backend") => HostMode::Backend,
            Some(literal) => {
                let (name, port) =
                    literal.rsplit_once(':').map_or((literal, None), |(name, port)| (name, Some(port)));
                let fine = matches!(HostPattern::parse(name), Ok(HostPattern::Exact(_)));
                if !fine || port.is_some_and(|port| port.parse::<u16>().is_err()) {
                    let text = format!("`{literal}` cannot be a Host header");
                    self.error(
                        "host_invalid",
                        file,
                        format_args!("{at}.host"),
                        text,
                        "`preserve`, `backend` or a host name",
                    );
                }
                HostMode::Literal(literal.into())
            }
            // A signature covers the Host, so a signed backend must be called by its own name.
            None if raw.sign.is_some() => HostMode::Backend,
            None => HostMode::Preserve,
        };
        let tls = self.backend_tls(file, at, raw, &target);
        let health = raw.health.as_ref().map(|health| self.health(file, at, health));
        if let Some(connections) = &raw.connections {
            self.connections(file, format_args!("{at}.connections"), connections);
        }
        let sign = raw.sign.as_ref().map(|sign| self.signature(file, at, sign, &target));
        let token = self.token(file, at, raw);
        let path_prefix = self.path_prefix(file, at, raw.path_prefix.as_deref());
        let headers = self.backend_headers(file, at, raw);
        Backend {
            id: name.into(),
            target,
            host,
            tls,
            protocol: raw.protocol.unwrap_or(Protocol::Auto),
            health,
            breaker: raw.breaker.as_deref().map(|breaker| self.breaker(file, at, breaker)),
            outliers: raw.outliers.as_ref().map(|outliers| self.outliers(file, at, outliers)),
            connections: raw.connections.clone(),
            sources: Sources { addresses: raw.bind.clone(), ports: raw.source_ports },
            sign,
            token,
            path_prefix,
            headers,
            capacity_rps: raw.capacity_rps,
        }
    }

    fn origins(&mut self, file: usize, at: fmt::Arguments<'_>, urls: &[String]) -> Vec<Origin> {
        if urls.is_empty() {
            self.error(
                "urls_empty",
                file,
                format_args!("{at}.urls"),
                "the list of URLs is empty",
                "at least one, such as `https://10.0.4.10:8443`",
            );
        }
        let mut origins: Vec<Origin> = Vec::new();
        for (number, url) in urls.iter().enumerate() {
            let path = format_args!("{at}.urls[{number}]");
            match Origin::parse(url) {
                Ok(origin) if origins.contains(&origin) => {
                    self.error(
                        "url_duplicate",
                        file,
                        path,
                        format!("`{url}` stands twice"),
                        "each address once; weights are not given by repetition",
                    );
                }
                Ok(origin) if origins.first().is_some_and(|first| first.tls != origin.tls) => {
                    self.error(
                        "url_scheme_mixed",
                        file,
                        path,
                        "the URLs of one backend mix http and https",
                        "one scheme for all of them",
                    );
                }
                Ok(origin) => origins.push(origin),
                Err(text) => self.error(
                    "url_invalid",
                    file,
                    path,
                    text,
                    "`http://` or `https://`, a host and optionally a port",
                ),
            }
        }
        origins
    }

    fn backend_tls(
        &mut self,
        file: usize,
        at: fmt::Arguments<'_>,
        raw: &file::Backend,
        target: &Target,
    ) -> BackendTls {
        let plain = match target {
            Target::Urls(origins) => origins.iter().any(|origin| !origin.tls),
            Target::Lambda(lambda) => lambda.endpoint.as_ref().is_some_and(|origin| !origin.tls),
        };
        if raw.protocol == Some(Protocol::H2c) && !plain {
            self.error(
                "protocol_scheme",
                file,
                format_args!("{at}.protocol"),
                "h2c is HTTP/2 without TLS, and the URL is https",
                "`h2`, or an http URL",
            );
        }
        if raw.protocol == Some(Protocol::H2) && plain {
            self.error(
                "protocol_scheme",
                file,
                format_args!("{at}.protocol"),
                "h2 needs TLS, and the URL is http",
                "`h2c`, or an https URL",
            );
        }
        let Some(tls) = &raw.tls else { return BackendTls::default() };
        if plain {
            self.error(
                "tls_without_https",
                file,
                format_args!("{at}.tls"),
                "`tls` is given and the URL is http",
                "an https URL, or no `tls`",
            );
        }
        let client = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => Some((cert.as_str().into(), key.as_str().into())),
            (None, None) => None,
            _ => {
                self.error(
                    "tls_pair",
                    file,
                    format_args!("{at}.tls"),
                    "a client certificate needs `cert` and `key`",
                    "both or neither",
                );
                None
            }
        };
        if let Some(name) = &tls.server_name
            && HostPattern::parse(name).is_err()
        {
            self.error(
                "host_invalid",
                file,
                format_args!("{at}.tls.server_name"),
                format!("`{name}` is not a host name"),
                "a name without a port",
            );
        }
        BackendTls {
            ca: tls.ca.as_deref().map(Into::into),
            client,
            server_name: tls.server_name.as_deref().map(Into::into),
        }
    }

    fn health(&mut self, file: usize, at: fmt::Arguments<'_>, raw: &file::Health) -> Health {
        let at = format_args!("{at}.health");
        if !raw.path.starts_with('/') || raw.path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.error(
                "health_path",
                file,
                format_args!("{at}.path"),
                format!("`{}` is not a path", raw.path),
                "a path such as `/healthz`",
            );
        }
        let interval = raw.interval.map_or(Duration::from_secs(5), |span| span.0);
        if interval < Duration::from_millis(100) {
            self.error(
                "health_interval",
                file,
                format_args!("{at}.interval"),
                "checks this often are load, not checks",
                "100ms or more",
            );
        }
        for (field, value) in [("unhealthy_after", raw.unhealthy_after), ("healthy_after", raw.healthy_after)]
        {
            if value == Some(0) {
                self.error(
                    "health_count",
                    file,
                    format_args!("{at}.{field}"),
                    "0 results decide nothing",
                    "1 or more",
                );
            }
        }
        Health {
            path: raw.path.as_str().into(),
            interval,
            timeout: raw.timeout.map_or(interval.min(Duration::from_secs(2)), |span| span.0),
            unhealthy_after: raw.unhealthy_after.unwrap_or(3),
            healthy_after: raw.healthy_after.unwrap_or(2),
        }
    }

    pub(super) fn cohorts(&mut self, files: &[ReadFile]) {
        unique!(self, cohort_ids, "cohort", "cohort_duplicate", files, cohorts, file, name, raw => {
            if raw.key.is_empty() {
                self.error("cohort_key_empty", file, format_args!("cohorts.{name}.key"), "a cohort without a key buckets nobody", "at least one source, such as `own_cookie`");
            }
            self.cohort_ids.insert(name.into(), self.cohorts.len() as u32);
            self.cohorts.push(Cohort {
                name: name.into(),
                seed: cohort_seed(name),
                keys: raw.key.clone(),
                allow: raw.allow.clone(),
                deny: raw.deny.clone(),
            });
        });
    }

    /// The cohort of a route that names none: its own, by our cookie. All of them share what does not depend on the name.
    pub(super) fn own_cohort(&mut self, route: &str) -> u32 {
        let at = self.cohorts.len() as u32;
        let keys = vec![KeySource::OwnCookie];
        let cohort = Cohort {
            name: route.into(),
            seed: cohort_seed(route),
            keys,
            allow: Vec::new(),
            deny: Vec::new(),
        };
        self.cohorts.push(cohort);
        at
    }

    pub(super) fn freezes(&mut self, files: &[ReadFile]) {
        for (file, read) in files.iter().enumerate() {
            for (number, freeze) in read.rules.freezes.iter().enumerate() {
                if freeze.from >= freeze.to {
                    let text = format!("freeze `{}` ends before it begins", freeze.name);
                    self.error(
                        "freeze_order",
                        file,
                        format_args!("freezes[{number}].to"),
                        text,
                        "a `to` after `from`",
                    );
                }
                let zone = &freeze.zone;
                let known = zone == "UTC"
                    || (zone.contains('/')
                        && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-+".contains(&b)));
                if !known {
                    let path = format_args!("freezes[{number}].zone");
                    self.error(
                        "freeze_zone",
                        file,
                        path,
                        format!("`{zone}` is not a time zone"),
                        "an IANA name such as `Europe/Berlin`, or `UTC`",
                    );
                }
            }
        }
    }
}
