//! Every listener with what serves it: HTTP, tunnels, the admin's.
//!
//! Input: settings, certificates, and the sockets that are held. Output: a server that can be run, and who says that its doors are open. Must not:
//! start anything.

use crate::admin::Admin;
use crate::certificates::HotCertificate;
use crate::doors::{Door, Sockets};
use crate::egress::{Egress, Exit, acceptor};
use crate::front::{Edge, Front};
use crate::hooks::again::SHARES_MAX;
use crate::proxy::Shared;
use crate::service::Service;
use crate::settings::{Listener, Mode};
use anyhow::{Result, anyhow};
use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{ListenerConfig, PreTlsProcess, TlsAccept};
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::TlsRef;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::listening::Service as ListeningService;
use pingora_error::{Error, ErrorType};
use pingora_proxy::http_proxy;
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pooled connections to backends, for all threads together: more than any peak of concurrent requests, because a pool that
/// is too small costs a handshake per request.
pub const POOL_CONNECTIONS: usize = 8_192;
/// Of the framework's buffer below us, for each connection: whoever reads has a larger one of his own, which goes past it.
const READ_BUFFER: usize = 512;
/// Tries in all that the framework may make; how many really are made is decided per route.
const TRIES_MAX: usize = 24;

pub fn server(
    shared: &Arc<Shared>,
    certificates: &[Option<Arc<HotCertificate>>],
    admin: Admin,
    sockets: &Sockets,
) -> Result<(Server, Doors)> {
    let settings = &shared.settings;
    let conf = ServerConf {
        threads: settings.threads,
        max_retries: TRIES_MAX + SHARES_MAX as usize,
        upstream_keepalive_pool_size: POOL_CONNECTIONS / settings.threads,
        // Ours ends first.
        grace_period_seconds: Some(settings.drain_deadline.as_secs() + 2),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let service = |server: &Server, name: String, h2c: bool| {
        let mut options = HttpServerOptions::default();
        options.h2c = h2c;
        let mut proxy = http_proxy(&server.configuration, Service(shared.clone()));
        proxy.server_options = Some(options);
        let front = Front { proxy: Arc::new(proxy), shared: shared.clone() };
        ListeningService::new(name, Edge(Arc::new(front)))
    };
    let (open, opened) = mpsc::unbounded_channel();
    let mut count = 0;
    let add = |server: &mut Server, inner: ListeningService<Edge>, addresses: &[SocketAddr]| -> Result<()> {
        server.add_service(door(inner, addresses, sockets, &open)?);
        Ok(())
    };
    // One service for all listeners but h2c ones, so that they share one pool of connections to the backends.
    let mut main = service(&server, "proxy".into(), false);
    let mut shares = Vec::new();
    let egress = Arc::new(Egress { shared: shared.clone() });
    for (listener, certificate) in settings.listeners.iter().zip(certificates) {
        if listener.mode != Mode::Http {
            let acceptor = certificate.as_ref().map(acceptor).transpose();
            count += 1;
            server.add_service(Exit {
                egress: egress.clone(),
                listener: listener.clone(),
                socket: Some(sockets.lend(listener.address)?),
                tls: acceptor.map_err(|error| anyhow!("listener `{}`: {error}", listener.name))?,
                open: open.clone(),
            });
            continue;
        }
        let config = ListenerConfig::tcp(listener.address.to_string())
            .l4_buffer(L4BufferSettings::new(READ_BUFFER, 1460));
        if listener.h2c {
            let mut own = service(&server, format!("proxy {}", listener.name), true);
            own.add_listener(config);
            count += 1;
            add(&mut server, own, &[listener.address])?;
            continue;
        }
        shares.push(listener.address);
        main.add_listener(match certificate {
            Some(certificate) => config.tls(tls(listener, certificate)?),
            None => config,
        });
    }
    if !shares.is_empty() {
        count += 1;
        main.endpoints().set_pre_tls_callback(Arc::new(BeforeTls(shared.clone())));
        add(&mut server, main, &shares)?;
    }
    let mut service = ListeningService::new("admin".into(), admin);
    service.threads = Some(1);
    service.add_tcp(&settings.admin.to_string());
    server.add_service(door(service, &[settings.admin], sockets, &open)?);
    Ok((server, Doors { count: count + 1, opened }))
}

/// The name of the admin's listener among the sockets.
pub const ADMIN: &str = "(admin)";

/// Who says that it is open, and how many there are.
pub struct Doors {
    pub count: usize,
    pub opened: mpsc::UnboundedReceiver<()>,
}

fn door<A>(
    inner: ListeningService<A>,
    addresses: &[SocketAddr],
    sockets: &Sockets,
    open: &mpsc::UnboundedSender<()>,
) -> Result<Door<A>> {
    let lent = addresses.iter().map(|address| Ok((*address, sockets.lend(*address)?)));
    Ok(Door { inner, sockets: lent.collect::<Result<_>>()?, open: open.clone() })
}

fn tls(listener: &Listener, certificate: &Arc<HotCertificate>) -> Result<TlsSettings> {
    let mut settings = TlsSettings::with_callbacks(Box::new(Greeter(certificate.clone())))
        .map_err(|error| anyhow!("listener `{}`: {error}", listener.name))?;
    settings.set_cert_resolver(certificate.clone());
    if let Some(clients) = &certificate.clients {
        settings.set_client_cert_verifier(clients.clone());
    }
    if listener.h2 {
        settings.enable_h2();
    }
    Ok(settings)
}

/// Reads what a balancer says before a handshake.
struct BeforeTls(Arc<Shared>);

#[async_trait]
impl PreTlsProcess for BeforeTls {
    async fn process(&self, stream: &mut L4Stream) -> pingora_error::Result<()> {
        let arrived = self.0.arrive(stream).await;
        arrived
            .ok_or_else(|| Error::explain(ErrorType::HandshakeError, "no header of a balancer that is known"))
    }
}

/// Notes for whom a client came, once a handshake.
struct Greeter(Arc<HotCertificate>);

#[async_trait]
impl TlsAccept for Greeter {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.0.came_for(tls.server_name()?)?))
    }
}
