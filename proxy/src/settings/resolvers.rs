//! Who is asked about names of private zones.
//!
//! Input: `resolvers:` of the settings. Output: zones with their servers. Must not: ask anybody.

use crate::client::dns::Zone;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

const DNS_PORT: u16 = 53;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResolver {
    zones: Vec<String>,
    servers: Vec<String>,
}

pub(super) fn lower(raw: Vec<RawResolver>) -> Result<Vec<Zone>, String> {
    let mut zones: Vec<Zone> = Vec::new();
    for (number, resolver) in raw.into_iter().enumerate() {
        let servers = resolver.servers.iter().map(|text| {
            let alone = |text: &str| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
            let server = alone(text).or_else(|| text.parse().ok());
            server.ok_or_else(|| {
                format!("resolvers[{number}].servers: `{text}` is not an address, such as 10.1.0.2 or 10.1.0.2:5353")
            })
        });
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() || resolver.zones.is_empty() {
            return Err(format!("resolvers[{number}]: at least one zone and one server are expected"));
        }
        for zone in resolver.zones {
            let name = zone.trim_matches('.').to_ascii_lowercase();
            let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                && !name.contains("..");
            if !fits {
                return Err(format!(
                    "resolvers[{number}].zones: `{zone}` is not a zone, such as bank.internal, or `.` for all"
                ));
            }
            if zones.iter().any(|known| known.name == name) {
                return Err(format!("resolvers[{number}].zones: `{zone}` has servers already"));
            }
            zones.push(Zone { name, servers: servers.clone() });
        }
    }
    Ok(zones)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Zone>, String> {
        lower(serde_yaml::from_str(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn zones_have_servers_and_faults_are_told() {
        let zones = read("[{zones: [Bank.internal., .], servers: [10.1.0.2, '[::1]:5353']}]");
        let zones = zones.unwrap_or_default();
        let names: Vec<_> = zones.iter().map(|zone| zone.name.as_str()).collect();
        assert_eq!(names, ["bank.internal", ""]);
        let servers: Vec<_> = zones[0].servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.1.0.2:53", "[::1]:5353"]);
        for (text, told) in [
            ("[{zones: [a], servers: [ns1.example.com]}]", "ns1.example.com"),
            ("[{zones: [], servers: [10.1.0.2]}]", "at least one zone"),
            ("[{zones: ['a b'], servers: [10.1.0.2]}]", "`a b` is not a zone"),
            ("[{zones: [a, a.], servers: [10.1.0.2]}]", "has servers already"),
        ] {
            let error = read(text).err().unwrap_or_default();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
