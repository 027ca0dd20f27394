//! `legacy-sim`: both airlines on ports of their own, for tests.

use clap::Parser;
use legacy_sim::airline::{Addresses, services};
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use std::net::SocketAddr;

/// The airline monolith, the same airline as functions, and a control port for faults.
#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "127.0.0.1:9001")]
    legacy: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:9002")]
    serverless: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:9003")]
    control: SocketAddr,
}

fn main() {
    let cli = Cli::parse();
    let conf = ServerConf {
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    server.add_services(services(Addresses {
        legacy: cli.legacy,
        serverless: cli.serverless,
        control: cli.control,
    }));
    eprintln!(
        "listening legacy http://{}, serverless http://{}, control http://{}",
        cli.legacy, cli.serverless, cli.control
    );
    server.run_forever();
}
