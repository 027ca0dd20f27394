//! Certificates of the listeners, read again on HUP.
//!
//! Input: PEM files. Output: a rustls resolver whose certificate can be swapped, and a verifier of client certificates whose authorities can.
//! Must not: replace what works by what cannot be read.

use crate::settings::ListenerTls;
use arc_swap::ArcSwap;
use pingora_prometheus::prometheus::IntGauge;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The certificate of one listener, and the authorities of its clients.
#[derive(Debug)]
pub struct HotCertificate {
    files: ListenerTls,
    current: ArcSwap<CertifiedKey>,
    /// Set where clients have to show one.
    pub clients: Option<Arc<HotVerifier>>,
    expiry: IntGauge,
}

impl HotCertificate {
    /// `expiry` shows when it ends.
    pub fn load(files: &ListenerTls, expiry: IntGauge) -> Result<Arc<HotCertificate>, String> {
        let clients = files.client_ca.as_deref().map(HotVerifier::load).transpose()?;
        let key = read(files)?;
        expiry.set(end_of(&key));
        let current = ArcSwap::from_pointee(key);
        Ok(Arc::new(HotCertificate { files: files.clone(), current, clients, expiry }))
    }

    /// Reads the files again; a failure is logged and changes nothing.
    pub fn reload(&self) {
        match read(&self.files) {
            Ok(key) => {
                self.expiry.set(end_of(&key));
                self.current.store(Arc::new(key));
            }
            Err(error) => tracing::error!(%error, "certificate not reloaded; the old one stays"),
        }
        self.clients.iter().for_each(|clients| clients.reload());
    }
}

/// Its last second, since 1970; 0 where it does not say.
fn end_of(key: &CertifiedKey) -> i64 {
    let parsed = key.cert.first().and_then(|it| X509Certificate::from_der(it).ok());
    parsed.map_or(0, |(_, certificate)| certificate.validity().not_after.timestamp())
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

/// Of whom it is: `CN=notify`, `O=Bank` and so on.
pub fn subject(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let parts = certificate.subject().iter_attributes();
    let told = parts.filter_map(|part| {
        let name = oid2abbrev(part.attr_type(), oid_registry()).ok()?;
        Some(format!("{name}={}", part.as_str().ok()?))
    });
    told.collect()
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

/// Asks clients for a certificate of some authorities, read again on HUP, and refuses the handshake without one.
#[derive(Debug)]
pub struct HotVerifier {
    ca: PathBuf,
    current: ArcSwap<Verifier>,
}

/// Sized, as a swap wants it.
type Verifier = Arc<dyn ClientCertVerifier>;

impl HotVerifier {
    pub fn load(ca: &Path) -> Result<Arc<HotVerifier>, String> {
        Ok(Arc::new(HotVerifier { ca: ca.to_owned(), current: ArcSwap::from_pointee(client_verifier(ca)?) }))
    }

    /// Reads the file again; a failure is logged and changes nothing.
    pub fn reload(&self) {
        match client_verifier(&self.ca) {
            Ok(verifier) => self.current.store(Arc::new(verifier)),
            Err(error) => tracing::error!(%error, "client authorities not reloaded; the old ones stay"),
        }
    }
}

impl ClientCertVerifier for HotVerifier {
    /// None: they would have to outlive a change, and clients know which certificate they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current.load().verify_client_cert(certificate, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current.load().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current.load().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.load().supported_verify_schemes()
    }
}

fn client_verifier(ca: &Path) -> Result<Verifier, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| format!("{}: {error}", ca.display()))
}
