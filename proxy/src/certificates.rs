//! Certificates of the listeners, read again on HUP.
//!
//! Input: PEM files. Output: a rustls resolver whose certificate can be swapped, and a verifier for client certificates. Must
//! not: replace a certificate that works by one that cannot be read.

use crate::settings::ListenerTls;
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use std::path::Path;
use std::sync::Arc;

/// The certificate of one listener.
#[derive(Debug)]
pub struct HotCertificate {
    files: ListenerTls,
    current: ArcSwap<CertifiedKey>,
}

impl HotCertificate {
    pub fn load(files: &ListenerTls) -> Result<Arc<HotCertificate>, String> {
        Ok(Arc::new(HotCertificate { files: files.clone(), current: ArcSwap::from_pointee(read(files)?) }))
    }

    /// Reads the files again; a failure is logged and changes nothing.
    pub fn reload(&self) {
        match read(&self.files) {
            Ok(key) => self.current.store(Arc::new(key)),
            Err(error) => tracing::error!(%error, "certificate not reloaded; the old one stays"),
        }
    }
}

impl ResolvesServerCert for HotCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).map_err(|error| format!("{shown}: {error}"))?;
    let chain = read.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{shown}: {error}"))?;
    if chain.is_empty() { Err(format!("{shown}: holds no certificate")) } else { Ok(chain) }
}

fn read(files: &ListenerTls) -> Result<CertifiedKey, String> {
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("{}: {error}", files.key.display()))?;
    let key =
        ring::sign::any_supported_type(&key).map_err(|error| format!("{}: {error}", files.key.display()))?;
    let certified = CertifiedKey::new(chain(&files.cert)?, key);
    certified
        .keys_match()
        .map_err(|error| format!("{} and {}: {error}", files.cert.display(), files.key.display()))?;
    Ok(certified)
}

/// Asks clients for a certificate of these authorities, and refuses the handshake without one.
pub fn client_verifier(ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| format!("{}: {error}", ca.display()))
}
