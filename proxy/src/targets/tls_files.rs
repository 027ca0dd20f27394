//! Certificates for the way to backends: PEM files -> what pingora's peers take.
//!
//! Input: paths from the rules. Output: authorities and a client certificate, shared by all peers of a backend. Must not:
//! be read per connection; a changed file is picked up by the next reload.

use banyan_routes::backend::BackendTls;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Of all that the files say: the rules name them only. One that cannot be read is like an empty one here.
pub fn fingerprint(base: &Path, tls: &BackendTls) -> u64 {
    let mut hash = Xxh3::new();
    let client = tls.client.iter().flat_map(|(cert, key)| [cert, key]);
    for file in tls.ca.iter().chain(client) {
        let bytes = std::fs::read(base.join(&**file)).unwrap_or_default();
        hash.update(&bytes.len().to_le_bytes());
        hash.update(&bytes);
    }
    hash.digest()
}

/// The authorities of a PEM file.
pub fn authorities(path: &Path) -> Result<Arc<[WrappedX509]>, String> {
    let certificates = certificates(path)?;
    Ok(certificates.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect())
}

/// A client certificate with its chain and key.
pub fn client(cert: &Path, key: &Path) -> Result<Arc<CertKey>, String> {
    let chain = certificates(cert)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    Ok(Arc::new(CertKey::new(chain, key_der.secret_der().to_vec())))
}

/// Every certificate is parsed here, because the framework panics on one that is not.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).map_err(|error| format!("{shown}: {error}"))?;
    let ders = read.map(|der| der.map(|der| der.to_vec()).map_err(|error| format!("{shown}: {error}")));
    let ders = ders.collect::<Result<Vec<_>, _>>()?;
    if ders.is_empty() {
        return Err(format!("{shown}: holds no certificate"));
    }
    for der in &ders {
        x509_parser::parse_x509_certificate(der)
            .map_err(|error| format!("{shown}: not an X.509 certificate: {error}"))?;
    }
    Ok(ders)
}
