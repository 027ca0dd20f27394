//! A lane of our own for HTTP/1.1: the prototype of docs/own-lane.md, measured by tests/bench and judged by tests/conformance.
//!
//! Input: `own-lane <rules> <log> <address of a listener>=<its name> ...`. Output: a proxy of one thread with the product's table, decision,
//! strict reader, metrics and log lines. Must not: get into the product, or be taken for complete: what it lacks stands in the study.

mod waiter;
mod head;
mod upstream;
mod asked;
mod answer;
mod serve;

use anyhow::{Context as _, Result, anyhow};
use banyan::access_log::LogSender;
use banyan::commands::rules::{NoRules, load};
use banyan::metrics::{Metrics, RouteMetrics};
use banyan::settings::LogTarget;
use banyan_routes::backend::Target;
use banyan_routes::table::RouteTable;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::rc::Rc;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What all connections share.
pub struct Lane {
    pub table: RouteTable,
    /// In the order of `table.backends`: one address each.
    pub addresses: Vec<SocketAddr>,
    pub metrics: Metrics,
    pub routes: Vec<RouteMetrics>,
    pub log: LogSender,
    pub pool: upstream::Pool,
}

fn lane(rules: &str, log: &str) -> Result<Lane> {
    let rules = load(Path::new(rules)).map_err(|error| match error {
        NoRules::Invalid(_, problems) => anyhow!("{problems:?}"),
        NoRules::Unreadable(error) => anyhow!("{error}"),
    })?;
    let address = |target: &Target| match target {
        Target::Urls(origins) => {
            let origin = origins.first().context("a backend without a URL")?;
            (&*origin.host, origin.port).to_socket_addrs()?.next().context("no address")
        }
        Target::Lambda(_) => Err(anyhow!("functions are not for this lane")),
    };
    let table = rules.table;
    let addresses = table.backends.iter().map(|it| address(&it.target)).collect::<Result<_>>()?;
    let metrics = Metrics::new();
    let target = if log == "off" { LogTarget::Off } else { LogTarget::File(log.into()) };
    let log = LogSender::start(&target, 1, metrics.log_dropped.clone())?;
    let routes = table.routes.iter().map(|_| RouteMetrics::default()).collect();
    let pool = upstream::Pool::new(table.backends.len());
    Ok(Lane { table, addresses, metrics, routes, log, pool })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rules, log, listeners @ ..] = &arguments[..] else {
        return Err(anyhow!("own-lane <rules> <log file or `off`> <address>=<name> ..."));
    };
    let lane = Rc::new(lane(rules, log)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        for listener in listeners {
            let (address, name) = listener.split_once('=').context("<address>=<name>")?;
            let listening = TcpListener::bind(address).await.context("listener")?;
            let (lane, name): (_, Rc<str>) = (lane.clone(), name.into());
            tokio::task::spawn_local(async move {
                while let Ok((client, peer)) = listening.accept().await {
                    let _ = client.set_nodelay(true);
                    let (lane, name) = (lane.clone(), name.clone());
                    tokio::task::spawn_local(async move {
                        serve::connection(&lane, client, peer.ip(), &name).await
                    });
                }
            });
        }
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
        lane.log.flush();
        anyhow::Ok(())
    })
}
