//! Headers of balancers: a header is read whole or not at all, and what was read comes from it.
#![no_main]

use banyan::proxy_protocol::{HEADER_MAX, Header, PREFIX, read, rest_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = read(bytes) else { return };
    assert!(bytes.len() <= HEADER_MAX);
    assert_eq!(bytes.first_chunk().map(rest_of), Some(Ok(bytes.len() - PREFIX)));
    assert!(read(&bytes[..bytes.len() - 1]).is_err() && read(&[bytes, &[0]].concat()).is_err());
    if let Header::Proxied(proxied) = header {
        let endpoint = proxied.endpoint.unwrap_or_else(|| "".into());
        assert!(endpoint.is_empty() || bytes.windows(endpoint.len()).any(|it| it == endpoint.as_bytes()));
    }
});
