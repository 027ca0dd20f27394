//! The least that can be written on the framework: every request goes to one backend, with one header set on its answer.
//!
//! Input: `bare-pingora <listen> <upstream> [--tls <listen> <cert> <key>] [--h2c <listen>]`, addresses and files. Output: a proxy of one thread. Must
//! not: do anything that a peer is not asked for.

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::ListenerConfig;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::listening::Service as ListeningService;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy};
use std::net::SocketAddr;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Bare(HttpPeer);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_error::Result<Box<HttpPeer>> {
        Ok(Box::new(self.0.clone()))
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        head: &mut ResponseHeader,
        (): &mut (),
    ) -> pingora_error::Result<()> {
        head.insert_header("x-rule", "0")
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let listen = next("address to listen on")?;
    let upstream = next("address of the upstream")?;
    let upstream = upstream.parse::<SocketAddr>().with_context(|| format!("upstream `{upstream}`"))?;
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 8_192,
        // It has nothing to finish.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = || http_proxy(&server.configuration, Bare(HttpPeer::new(upstream, false, String::new())));
    // As Banyan has it.
    let on =
        |listen: &str| ListenerConfig::tcp(listen.to_owned()).l4_buffer(L4BufferSettings::new(512, 1460));
    let mut service = ListeningService::new("bare".into(), proxy());
    let mut h2c = None;
    service.add_listener(on(&listen));
    while let Ok(flag) = next("a flag") {
        match flag.as_str() {
            "--tls" => {
                let (address, cert, key) = (next("address")?, next("certificate")?, next("key")?);
                service.add_listener(on(&address).tls(TlsSettings::intermediate(&cert, &key)?));
            }
            "--h2c" => {
                let mut options = HttpServerOptions::default();
                options.h2c = true;
                let mut proxy = proxy();
                proxy.server_options = Some(options);
                let mut service = ListeningService::new("h2c".into(), proxy);
                service.add_listener(on(&next("address")?));
                h2c = Some(service);
            }
            other => bail!("`{other}`: expected --tls or --h2c"),
        }
    }
    server.add_service(service);
    if let Some(service) = h2c {
        server.add_service(service);
    }
    server.run_forever()
}
