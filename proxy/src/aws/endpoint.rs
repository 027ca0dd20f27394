//! Where the services of AWS are: the rule's word, the settings', the environment's, then the region's public name.
//!
//! Input: a function, settings, environment variables as the SDKs read them. Output: region and origin. Must not: resolve names.

use banyan_routes::backend::{LambdaTarget, Origin};

/// What the process knows of AWS; see `settings.aws`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AwsSettings {
    pub region: Option<String>,
    /// In place of every service's public address: emulators, and private gateways.
    pub endpoint_url: Option<Origin>,
    pub prices: Vec<Price>,
}

/// What functions of one region cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// `default` for regions without a line of their own.
    pub region: String,
    pub requests_per_million: f64,
    pub gb_second_x86: f64,
    pub gb_second_arm: f64,
}

impl AwsSettings {
    /// The list prices of most regions in US dollars, first tier, as published in 2026; settings override them.
    pub const LIST_PRICE: (f64, f64, f64) = (0.20, 0.000_016_666_7, 0.000_013_333_4);

    pub fn price(&self, region: &str) -> Price {
        let of = |name: &str| self.prices.iter().find(|price| price.region == name).cloned();
        of(region).or_else(|| of("default")).unwrap_or_else(|| {
            let (requests_per_million, gb_second_x86, gb_second_arm) = AwsSettings::LIST_PRICE;
            Price { region: region.into(), requests_per_million, gb_second_x86, gb_second_arm }
        })
    }

    /// The region of a function, or what to say.
    pub fn region(
        &self,
        target: &LambdaTarget,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        let given = target.region.as_deref().map(str::to_owned);
        given.or_else(|| self.own_region(env)).ok_or_else(|| {
            "no region is known for this function; expected `region` in the rule, `aws.region` in the settings, or AWS_REGION".into()
        })
    }

    /// Where nothing says another one.
    pub fn own_region(&self, env: impl Fn(&str) -> Option<String>) -> Option<String> {
        self.region.clone().or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"))
    }

    /// The address of the Lambda API.
    pub fn lambda(
        &self,
        target: &LambdaTarget,
        region: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Origin, String> {
        match &target.endpoint {
            Some(origin) => Ok(origin.clone()),
            None => self.service("lambda", "AWS_ENDPOINT_URL_LAMBDA", region, env),
        }
    }

    /// The address of a service; `variable` is its own in the environment.
    pub fn service(
        &self,
        service: &str,
        variable: &str,
        region: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Origin, String> {
        if let Some(origin) = &self.endpoint_url {
            return Ok(origin.clone());
        }
        let named = [variable, "AWS_ENDPOINT_URL"];
        if let Some((name, url)) = named.iter().find_map(|name| env(name).map(|url| (name, url))) {
            return Origin::parse(&url).map_err(|error| format!("{name}: {error}"));
        }
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Ok(Origin { tls: true, host: format!("{service}.{region}.{suffix}").into(), port: 443 })
    }
}

/// A variable of the environment that says something.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
