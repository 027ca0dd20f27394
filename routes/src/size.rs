//! How many proxies, addresses and connections it takes, and what it took before.
//!
//! Input: rates, times and limits. Output: figures. Must not: know a price, or round anything in our favour.
//!
//! Source: Little's law; AWS, quotas of network load balancers and VPCs (five addresses of a subnet are AWS's own, 55,000 connections a minute and
//! target for endpoint services, 65,000 connections an interface of functions); Linux, 28,232 ephemeral ports; AWS until 2019, "peak concurrency x
//! memory in GB / 3" interfaces for functions in a VPC.

use serde::Serialize;

/// Connections are planned to be busy so much of their time.
const BUSY: f64 = 0.7;
const PORTS: u64 = 28_232;
/// Ports that are free again within a minute of TIME_WAIT, a second.
const NEW_PER_SOURCE: f64 = 470.0;
const FLOWS_PER_TARGET: u64 = 55_000;
const CONNECTIONS_PER_INTERFACE: u64 = 65_000;
/// Of each subnet, AWS keeps five.
const KEPT: u64 = 5;
/// AWS's smallest subnet is a /28.
const SUBNET_MIN: u64 = 16;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Calls a second, all functions together.
    pub rate: f64,
    /// Of one call on-prem, in seconds.
    pub service_time: f64,
    /// Connections that the on-prem host takes.
    pub legacy_limit: u64,
    pub azs: u64,
    /// How many times as many proxies there are while they are replaced.
    pub surge: u64,
    /// Calls a second that one proxy carries.
    pub rate_per_proxy: f64,
    /// Requests at one time on a connection: 1 with HTTP/1.
    pub streams: u64,
    /// Addresses a proxy connects from.
    pub sources: u64,
    /// Places of one host on-prem that are connected to: address and port.
    pub destinations: u64,
    /// Instances of functions at one time.
    pub functions: u64,
    /// Of each.
    pub memory_gb: f64,
    /// Subnets and security groups that functions are in: each pair has interfaces of its own.
    pub function_subnets: u64,
    pub security_groups: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Size {
    /// On-prem, at one time.
    pub concurrent_calls: f64,
    pub pooled_connections: u64,
    pub proxies: u64,
    pub proxies_at_surge: u64,
    pub connections_per_proxy: u64,
    /// So that all of them together stay within the limit, also while they are replaced.
    pub cap_per_proxy: u64,
    /// Connections that a proxy can have to one destination.
    pub ports_per_proxy: u64,
    /// Without pooling, all proxies together.
    pub new_connections_per_second: f64,
    pub addresses_per_az: u64,
    /// Each subnet, and all of them together, as prefix lengths.
    pub subnet_prefix: u32,
    pub prefix: u32,
    pub addresses: u64,
    /// What the rule of 2018 asked for: an interface for each instance by its memory.
    pub addresses_2018: u64,
    /// What shared interfaces take, in the functions' own subnets.
    pub interfaces_now: u64,
    pub warnings: Vec<String>,
}

/// The error says which figure makes no sense.
pub fn size(load: &Load) -> Result<Size, String> {
    for (name, value) in [
        ("rate", load.rate),
        ("service time", load.service_time),
        ("rate per proxy", load.rate_per_proxy),
        ("memory", load.memory_gb),
    ] {
        if !value.is_finite() || value <= 0.0 || value > 1e12 {
            return Err(format!("{name} is {value}; expected more than 0"));
        }
    }
    for (name, value) in [
        ("azs", load.azs),
        ("surge", load.surge),
        ("streams", load.streams),
        ("sources", load.sources),
        ("destinations", load.destinations),
        ("legacy limit", load.legacy_limit),
        ("function subnets", load.function_subnets),
        ("security groups", load.security_groups),
    ] {
        if value == 0 || value > 1_000_000 {
            return Err(format!("{name} is {value}; expected 1 to 1,000,000"));
        }
    }
    let concurrent_calls = load.rate * load.service_time;
    let pooled_connections = up(concurrent_calls / (BUSY * load.streams as f64));
    let proxies = (2 * load.azs)
        .max(up(load.rate / load.rate_per_proxy))
        .max(load.functions.div_ceil(FLOWS_PER_TARGET))
        // As many in each zone.
        .next_multiple_of(load.azs);
    let proxies_at_surge = proxies * load.surge;
    let connections_per_proxy = pooled_connections.div_ceil(proxies);
    let cap_per_proxy = load.legacy_limit / proxies_at_surge;
    let ports_per_proxy = PORTS * load.sources * load.destinations;
    let per_az = proxies_at_surge.div_ceil(load.azs);
    // One more for the balancer.
    let addresses_per_az = KEPT + per_az + 1;
    let subnet = addresses_per_az.next_power_of_two().max(SUBNET_MIN);
    let all = (subnet * load.azs).next_power_of_two();
    let mut warnings = Vec::new();
    if cap_per_proxy == 0 {
        warnings.push(format!(
            "the legacy limit of {} is less than the {proxies_at_surge} proxies that there are while they are replaced",
            load.legacy_limit
        ));
    } else if cap_per_proxy * proxies < pooled_connections {
        warnings.push(format!(
            "{pooled_connections} connections are wanted and {} are allowed: calls will wait in the queue",
            cap_per_proxy * proxies
        ));
    }
    if connections_per_proxy > ports_per_proxy {
        warnings.push(format!("{connections_per_proxy} connections of a proxy do not fit into {ports_per_proxy} ports: more sources"));
    }
    let new_connections_per_second = NEW_PER_SOURCE * (load.sources * load.destinations * proxies) as f64;
    if load.rate > new_connections_per_second {
        warnings
            .push(format!("without pooling, {new_connections_per_second} calls a second would be the most"));
    }
    Ok(Size {
        concurrent_calls,
        pooled_connections,
        proxies,
        proxies_at_surge,
        connections_per_proxy,
        cap_per_proxy,
        ports_per_proxy,
        new_connections_per_second,
        addresses_per_az,
        subnet_prefix: prefix(subnet),
        prefix: prefix(all),
        addresses: all,
        addresses_2018: up(load.functions as f64 * load.memory_gb / 3.0),
        interfaces_now: load.function_subnets
            * load.security_groups
            * load.functions.max(1).div_ceil(CONNECTIONS_PER_INTERFACE),
        warnings,
    })
}

/// Up to the next whole number; what is a whole number but for the last bits of a fraction stays.
fn up(value: f64) -> u64 {
    let near = value.round();
    if (value - near).abs() < near * 1e-9 { near as u64 } else { value.ceil() as u64 }
}

fn prefix(addresses: u64) -> u32 {
    32_u32.saturating_sub(addresses.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hsbc() -> Load {
        Load {
            rate: 10_000.0,
            service_time: 0.05,
            legacy_limit: 1_000,
            azs: 2,
            surge: 2,
            rate_per_proxy: 5_000.0,
            streams: 1,
            sources: 1,
            destinations: 1,
            functions: 5_000,
            memory_gb: 1.5,
            function_subnets: 2,
            security_groups: 1,
        }
    }

    /// Each by hand, from the formulas.
    #[test]
    fn worked_examples() {
        let size = |load: Load| size(&load).expect("a size");
        // 500 calls at one time, 715 connections, two subnets of 16: a /27. The rule of 2018: 5,000 x 1.5 / 3.
        let it = size(hsbc());
        assert_eq!(
            (it.concurrent_calls, it.pooled_connections, it.prefix, it.addresses_2018),
            (500.0, 715, 27, 2_500)
        );
        assert_eq!(
            (it.proxies, it.proxies_at_surge, it.cap_per_proxy, it.connections_per_proxy),
            (4, 8, 125, 179)
        );
        assert_eq!((it.addresses_per_az, it.subnet_prefix, it.interfaces_now), (10, 28, 2));
        assert_eq!(
            it.warnings.len(),
            2,
            "500 of 715 are allowed, and 1,880 new ones a second: {:?}",
            it.warnings
        );
        // HTTP/2 with 100 streams: 500 / 70 = 7.1 -> 8 connections.
        assert_eq!(size(Load { streams: 100, ..hsbc() }).pooled_connections, 8);
        // Three zones, 60,000/s of 20 ms: 1,200 calls, 1,715 connections; 12 proxies, 24 at surge, 8 a zone: 14 addresses, three /28: a /26.
        let it = size(Load { rate: 60_000.0, service_time: 0.02, azs: 3, ..hsbc() });
        assert_eq!((it.pooled_connections, it.proxies, it.proxies_at_surge), (1_715, 12, 24));
        assert_eq!((it.addresses_per_az, it.subnet_prefix, it.prefix, it.addresses), (14, 28, 26, 64));
        // 120,000 functions are three targets' flows; one zone has two at least: 3 -> 3 x 1.
        let it = size(Load { functions: 120_000, azs: 1, surge: 1, ..hsbc() });
        assert_eq!((it.proxies, it.addresses_2018, it.interfaces_now), (3, 60_000, 4));
        // A slow host: 100/s of 3 s are 300 calls, 429 connections, for 8 proxies 25 each: 4 x 25 of 429.
        let it = size(Load { rate: 100.0, service_time: 3.0, legacy_limit: 200, ..hsbc() });
        assert_eq!((it.pooled_connections, it.cap_per_proxy, it.warnings.len()), (429, 25, 1));
        // 40 proxies a zone at surge do not fit a /28: 5 + 40 + 1 = 46 -> /26, two of them /25.
        let it = size(Load { rate: 200_000.0, ..hsbc() });
        assert_eq!((it.proxies, it.addresses_per_az, it.subnet_prefix, it.prefix), (40, 46, 26, 25));
        // Fewer places than proxies.
        let it = size(Load { legacy_limit: 7, ..hsbc() });
        assert!(it.cap_per_proxy == 0 && it.warnings[0].contains("8 proxies"), "{:?}", it.warnings);
    }

    #[test]
    fn figures_that_make_no_sense_are_named() {
        for (load, name) in [
            (Load { rate: 0.0, ..hsbc() }, "rate"),
            (Load { service_time: f64::NAN, ..hsbc() }, "service time"),
            (Load { azs: 0, ..hsbc() }, "azs"),
            (Load { memory_gb: -1.0, ..hsbc() }, "memory"),
        ] {
            assert!(size(&load).is_err_and(|error| error.starts_with(name)), "{name}");
        }
    }
}
