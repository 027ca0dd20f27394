//! The header of the PROXY protocol, version 2, as network load balancers and endpoint services of AWS write it.
//!
//! Input: bytes. Output: who the connection is from, or a fault. Must not: read on behind the header, or take a part of one for a whole.
//!
//! Source: HAProxy, "The PROXY protocol, versions 1 and 2", sections 2.2 to 2.2.8; AWS, "Proxy protocol" of network load balancers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Signature, version and command, family, length.
pub const PREFIX: usize = 16;
/// Of a whole header; nobody needs more, and it is held while it comes.
pub const HEADER_MAX: usize = 2 << 10;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const CRC32C: u8 = 0x03;
const AWS: u8 = 0xea;
const AWS_ENDPOINT: u8 = 0x01;
/// `vpce-` and up to so many characters.
const ENDPOINT_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// The balancer itself: a health check. It says nothing of anybody.
    Local,
    Proxied(Proxied),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The endpoint by which it came; `None`: not through PrivateLink.
    pub endpoint: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("no signature of version 2")]
    Signature,
    #[error("a version or command that does not exist")]
    Command,
    #[error("not TCP over IPv4 or IPv6")]
    Family,
    #[error("a length that cannot be")]
    Length,
    #[error("a field that does not fit")]
    Field,
    #[error("a checksum that is not the header's")]
    Checksum,
    #[error("an endpoint that is none")]
    Endpoint,
}

/// How much comes behind the prefix.
pub fn rest_of(prefix: &[u8; PREFIX]) -> Result<usize, Fault> {
    if prefix[..12] != SIGNATURE {
        return Err(Fault::Signature);
    }
    if !matches!(prefix[12], 0x20 | 0x21) {
        return Err(Fault::Command);
    }
    let rest = usize::from(u16::from_be_bytes([prefix[14], prefix[15]]));
    if PREFIX + rest > HEADER_MAX { Err(Fault::Length) } else { Ok(rest) }
}

/// Reads a header, to its last byte.
pub fn read(header: &[u8]) -> Result<Header, Fault> {
    let prefix: &[u8; PREFIX] = header.first_chunk().ok_or(Fault::Length)?;
    let rest = &header[PREFIX..];
    if rest_of(prefix)? != rest.len() {
        return Err(Fault::Length);
    }
    // What stands in the header of a local connection is to be passed over, and so is what is of no known family.
    if prefix[12] == 0x20 || prefix[13] == 0 {
        return Ok(Header::Local);
    }
    let (addresses, fields) = match prefix[13] {
        0x11 => rest.split_at_checked(12),
        0x21 => rest.split_at_checked(36),
        _ => return Err(Fault::Family),
    }
    .ok_or(Fault::Length)?;
    let (source, destination) = addresses_of(addresses).ok_or(Fault::Length)?;
    let endpoint = fields_of(header, fields)?;
    Ok(Header::Proxied(Proxied { source, destination, endpoint }))
}

fn addresses_of(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let size = if bytes.len() == 12 { 4 } else { 16 };
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        Some(match size {
            4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
            _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        })
    };
    let port = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let source = SocketAddr::new(address(bytes.get(..size)?)?, port(2 * size)?);
    let destination = SocketAddr::new(address(bytes.get(size..2 * size)?)?, port(2 * size + 2)?);
    Some((source, destination))
}

/// The endpoint, once all fields are in order.
fn fields_of(header: &[u8], mut fields: &[u8]) -> Result<Option<Arc<str>>, Fault> {
    let (mut endpoint, mut sum_seen) = (None, false);
    while !fields.is_empty() {
        let [kind, high, low, rest @ ..] = fields else { return Err(Fault::Field) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, after) = rest.split_at_checked(length).ok_or(Fault::Field)?;
        match *kind {
            CRC32C => {
                let told = u32::from_be_bytes(value.try_into().map_err(|_| Fault::Field)?);
                let at = header.len() - fields.len() + 3;
                if std::mem::replace(&mut sum_seen, true) || told != sum_without(header, at) {
                    return Err(Fault::Checksum);
                }
            }
            AWS => {
                if let [AWS_ENDPOINT, id @ ..] = value {
                    let id = endpoint_id(id).ok_or(Fault::Endpoint)?;
                    if endpoint.replace(id).is_some() {
                        return Err(Fault::Endpoint);
                    }
                }
            }
            // Padding, and what is for others.
            _ => {}
        }
        fields = after;
    }
    Ok(endpoint)
}

/// As if the four bytes at `at`, which hold the sum itself, were zero.
fn sum_without(header: &[u8], at: usize) -> u32 {
    let sum = crc32c::crc32c(&header[..at]);
    crc32c::crc32c_append(crc32c::crc32c_append(sum, &[0; 4]), &header[at + 4..])
}

fn endpoint_id(bytes: &[u8]) -> Option<Arc<str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let id = text.strip_prefix("vpce-")?;
    let fits = !id.is_empty()
        && id.len() <= ENDPOINT_MAX
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then(|| text.into())
}

#[cfg(test)]
mod tests;
