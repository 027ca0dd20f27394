//! Headers by vectors, and everything that is not quite one.
//!
//! Input: bytes, written here by the rules of the protocol, and as they were captured. Output: verdicts. Must not: depend on chance.

use super::*;

const ENDPOINT: &str = "vpce-08d2bf15fac5001c9";

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// A header with these fields, and, with `sum`, its checksum in front of them.
fn header(command: u8, family: u8, addresses: &[u8], fields: &[u8], sum: bool) -> Vec<u8> {
    let sum_field = if sum { field(CRC32C, &[0; 4]) } else { Vec::new() };
    let length = (addresses.len() + sum_field.len() + fields.len()) as u16;
    let mut bytes =
        [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), addresses, &sum_field, fields].concat();
    if sum {
        let at = PREFIX + addresses.len() + 3;
        let sum = crc32c::crc32c(&bytes);
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// 10.64.3.7:40000 -> 10.1.2.9:8443.
const V4: [u8; 12] = [10, 64, 3, 7, 10, 1, 2, 9, 0x9c, 0x40, 0x20, 0xfb];

fn v6() -> Vec<u8> {
    let (a, b): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::7".parse().expect("v6"), "2001:db8:1::9".parse().expect("v6"));
    [&a.octets()[..], &b.octets(), &40_000_u16.to_be_bytes(), &8_443_u16.to_be_bytes()].concat()
}

fn aws(id: &str) -> Vec<u8> {
    field(AWS, &[&[AWS_ENDPOINT], id.as_bytes()].concat())
}

#[test]
fn good_headers_say_who_it_is() {
    let all = [aws(ENDPOINT), field(0x04, &[0; 84])].concat();
    let bytes = header(0x21, 0x11, &V4, &all, true);
    let Ok(Header::Proxied(found)) = read(&bytes) else { unreachable!("{:?}", read(&bytes)) };
    assert_eq!(found.source, "10.64.3.7:40000".parse().expect("address"));
    assert_eq!(found.destination, "10.1.2.9:8443".parse().expect("address"));
    assert_eq!(found.endpoint.as_deref(), Some(ENDPOINT));
    let bytes = header(0x21, 0x21, &v6(), &[], false);
    let Ok(Header::Proxied(found)) = read(&bytes) else { unreachable!("{:?}", read(&bytes)) };
    assert_eq!((found.source.to_string().as_str(), found.endpoint), ("[2001:db8::7]:40000", None));
    // A health check of the balancer, with nothing, or with something that is passed over.
    for bytes in [
        header(0x20, 0, &[], &[], false),
        header(0x20, 0x11, &V4, b"\xff\xff", false),
        header(0x21, 0, &[], b"x", false),
    ] {
        assert_eq!(read(&bytes), Ok(Header::Local));
    }
    // Fields of others, AWS's other ones, and padding of every size.
    for more in [
        field(0x01, b"h2"),
        field(AWS, &[0x02, 1]),
        field(0xea, &[]),
        field(0x04, &[]),
        field(0x04, &[7; 1_000]),
    ] {
        assert!(matches!(
            read(&header(0x21, 0x11, &V4, &more, true)),
            Ok(Header::Proxied(Proxied { endpoint: None, .. }))
        ));
    }
}

#[test]
fn what_is_not_quite_a_header_is_none() {
    let good = header(0x21, 0x11, &V4, &aws(ENDPOINT), true);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let fields = |fields: &[u8]| header(0x21, 0x11, &V4, fields, false);
    let twice = [aws(ENDPOINT), aws(ENDPOINT)].concat();
    let two_sums = {
        let bytes = header(0x21, 0x11, &V4, &[], true);
        [&bytes[PREFIX + 12..], &bytes[PREFIX + 12..]].concat()
    };
    let cases: Vec<(Vec<u8>, Fault)> = vec![
        (changed(0, b'G'), Fault::Signature),
        (changed(11, 0), Fault::Signature),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec(), Fault::Signature),
        (changed(12, 0x11), Fault::Command),
        (changed(12, 0x22), Fault::Command),
        (changed(12, 0x2f), Fault::Command),
        (changed(12, 0x31), Fault::Command),
        (changed(12, 0x01), Fault::Command),
        (changed(13, 0x12), Fault::Family),
        (changed(13, 0x22), Fault::Family),
        (changed(13, 0x31), Fault::Family),
        (changed(13, 0x32), Fault::Family),
        (changed(13, 0x41), Fault::Family),
        (changed(13, 0x21), Fault::Field),
        (changed(14, 0xff), Fault::Length),
        (changed(15, 0), Fault::Length),
        (changed(15, good[15] - 1), Fault::Length),
        (changed(15, good[15] + 1), Fault::Length),
        (header(0x21, 0x11, &V4[..11], &[], false), Fault::Length),
        (header(0x21, 0x11, &[], &[], false), Fault::Length),
        (header(0x21, 0x21, &V4, &[], false), Fault::Length),
        (fields(&[0x04]), Fault::Field),
        (fields(&[0x04, 0]), Fault::Field),
        (fields(&[0x04, 0, 1]), Fault::Field),
        (fields(&[0x04, 0xff, 0xff, 0]), Fault::Field),
        (fields(&field(CRC32C, &[0; 3])), Fault::Field),
        (fields(&field(CRC32C, &[0; 5])), Fault::Field),
        (fields(&field(CRC32C, &[0; 4])), Fault::Checksum),
        (fields(&two_sums), Fault::Checksum),
        (changed(16, 11), Fault::Checksum),
        (changed(good.len() - 1, b'8'), Fault::Checksum),
        (changed(PREFIX + 12 + 3, 1), Fault::Checksum),
        (fields(&aws("")), Fault::Endpoint),
        (fields(&aws("vpce-")), Fault::Endpoint),
        (fields(&aws("vpc-08d2bf15fac5001c9")), Fault::Endpoint),
        (fields(&aws("vpce-08d2\"f15")), Fault::Endpoint),
        (fields(&aws("vpce-08d2\n15")), Fault::Endpoint),
        (fields(&aws("vpce-\u{e9}")), Fault::Endpoint),
        (fields(&aws(&format!("vpce-{}", "0".repeat(65)))), Fault::Endpoint),
        (fields(&twice), Fault::Endpoint),
    ];
    assert!(cases.len() >= 40);
    for (bytes, fault) in cases {
        assert_eq!(read(&bytes), Err(fault), "{bytes:02x?}");
    }
    // A part of one is none, wherever it is cut; one byte more is too much.
    for cut in 0..good.len() {
        assert_eq!(read(&good[..cut]), Err(Fault::Length), "{cut}");
    }
    assert_eq!(read(&[&good[..], &[0]].concat()), Err(Fault::Length));
    let prefix = |bytes: &[u8]| rest_of(bytes.first_chunk().expect("a prefix"));
    assert_eq!(prefix(&good), Ok(good.len() - PREFIX));
    assert_eq!(prefix(&changed(14, 8)), Err(Fault::Length), "over two kilobytes");
}
