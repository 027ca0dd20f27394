//! The `banyan` binary.

use std::io::IsTerminal;
use std::process::ExitCode;

/// Chosen for memory per connection and for giving memory back after a peak.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The framework logs every failed handshake and broken connection as an error; ours say what matters. The SDK logs what a helper of its
    // profile printed, whatever that is.
    let filter = tracing_subscriber::EnvFilter::try_from_env("BANYAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,pingora_core=off,pingora_proxy=off,pingora_pool=off,aws_config=off,aws_smithy_runtime=off,hickory_resolver=error,hickory_net=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
    banyan::cli::main().into()
}
