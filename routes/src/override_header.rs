//! The signed, expiring header that forces a side for testing: `X-Banyan-Override`.
//!
//! Input: the header's value, the key, and the time. Output: a side, or why it is refused. Must not: accept anything
//! without an end: a leaked override dies by itself.
//!
//! Form: `side=serverless; exp=1764000000; sig=<hex>`, where `sig` is HMAC-SHA256 over everything before `; sig=`. With
//! `route=<id>` in between it holds for that route only.

use crate::ids::Side;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write;

pub const OVERRIDE_HEADER: &str = "x-banyan-override";

/// Why an override is stripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideFault {
    #[error("not of the form `side=...; exp=...; sig=...`")]
    Malformed,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is for another route")]
    Route,
}

/// Makes a header value.
pub fn sign(key: &[u8], side: Side, route: Option<&str>, expires_unix_s: u64) -> String {
    let mut text = format!("side={side}; exp={expires_unix_s}");
    if let Some(route) = route {
        text += &format!("; route={route}");
    }
    let signature = mac(key, &text).finalize().into_bytes();
    let mut out = text + "; sig=";
    signature.iter().for_each(|byte| {
        let _ = write!(out, "{byte:02x}");
    });
    out
}

/// Checks a header value; the signature before anything it says.
pub fn verify(key: &[u8], value: &str, route: &str, now_unix_s: u64) -> Result<Side, OverrideFault> {
    let (text, signature) = value.split_once("; sig=").ok_or(OverrideFault::Malformed)?;
    let signature = unhex(signature.trim()).ok_or(OverrideFault::Malformed)?;
    mac(key, text).verify_slice(&signature).map_err(|_| OverrideFault::Signature)?;
    let mut side = None;
    let mut expires = None;
    for field in text.split("; ") {
        match field.split_once('=') {
            Some(("side", value)) => side = value.parse().ok(),
            Some(("exp", value)) => expires = value.parse::<u64>().ok(),
            Some(("route", value)) if value == route => {}
            Some(("route", _)) => return Err(OverrideFault::Route),
            _ => return Err(OverrideFault::Malformed),
        }
    }
    let (Some(side), Some(expires)) = (side, expires) else { return Err(OverrideFault::Malformed) };
    if now_unix_s >= expires { Err(OverrideFault::Expired) } else { Ok(side) }
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    // HMAC takes keys of any length; the error type exists for other MACs.
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes any key length"));
    mac.update(text.as_bytes());
    mac
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()).collect()
}
