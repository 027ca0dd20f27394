//! placeholder
use crate::exit::Exit;
use std::net::SocketAddr;
pub fn run(_l: SocketAddr, _a: SocketAddr, _t: bool) -> Exit { Exit::Internal }
