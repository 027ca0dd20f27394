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
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

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

/// The names that the certificate of a connection is for, where the client came for one of them.
#[derive(Debug)]
pub struct CameFor(Vec<String>);

impl CameFor {
    /// Whether a request for `host` belongs on this connection.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']);
        self.0.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

impl HotCertificate {
    /// `None` where the client named nobody whom the certificate is for: then its names say nothing about what it wants.
    pub fn came_for(&self, server_name: &str) -> Option<CameFor> {
        let names = CameFor(names(self.current.load().end_entity_cert().ok()?));
        names.covers(server_name).then_some(names)
    }
}

/// Its subject alternative names: DNS names and addresses.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|it| IpAddr::from(it).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|it| IpAddr::from(it).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
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
