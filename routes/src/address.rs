//! An address as text in a buffer of its own: every request has a few, and `fmt` takes ten times as long.
//!
//! Input: an IP address. Output: what `Display` would write. Must not: allocate.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

/// `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`
const LONGEST: usize = 45;

#[derive(Clone, Copy)]
pub struct AddressText {
    bytes: [u8; LONGEST],
    length: usize,
}

impl AddressText {
    pub fn of(address: IpAddr) -> AddressText {
        let mut text = AddressText { bytes: [0; LONGEST], length: 0 };
        match address {
            IpAddr::V4(address) => text.write_v4(address),
            IpAddr::V6(address) => {
                let mut room = &mut text.bytes[..];
                // The room is as large as the longest.
                let _ = write!(room, "{address}");
                text.length = LONGEST - room.len();
            }
        }
        text
    }

    fn write_v4(&mut self, address: Ipv4Addr) {
        for (number, octet) in address.octets().into_iter().enumerate() {
            if number > 0 {
                self.push(b'.');
            }
            if octet >= 100 {
                self.push(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.push(b'0' + octet / 10 % 10);
            }
            self.push(b'0' + octet % 10);
        }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_display_writes(v4 in any::<[u8; 4]>(), v6 in any::<[u16; 8]>(), mapped in any::<bool>()) {
            let v6 = if mapped { Ipv4Addr::from(v4).to_ipv6_mapped() } else { v6.into() };
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                let text = AddressText::of(address);
                prop_assert_eq!(std::str::from_utf8(text.as_bytes()).expect("text"), address.to_string());
            }
        }
    }
}
