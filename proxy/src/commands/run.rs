//! `banyan run`.
//!
//! Input: settings and flags. Output: a process that serves, or the reason why it does not. Must not: start with rules it
//! cannot keep.

use crate::boot::{Running, Started, start};
use crate::commands::check::draw;
use crate::exit::Exit;
use crate::settings::{Flags, Settings};
use pingora_core::services::ServiceWithDependents;
use std::path::Path;

pub fn run(file: Option<&Path>, flags: &Flags, wait_for_rules: bool) -> Exit {
    let settings = match Settings::load(file, flags) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("banyan: {error}");
            return Exit::Usage;
        }
    };
    match launch(settings, wait_for_rules, Vec::new()) {
        Ok(running) => {
            announce(&running);
            running.run();
            Exit::Ok
        }
        Err(exit) => exit,
    }
}

/// Starts, or says why not.
pub fn launch(
    settings: Settings,
    wait_for_rules: bool,
    extra: Vec<Box<dyn ServiceWithDependents>>,
) -> Result<Box<Running>, Exit> {
    match start(settings, wait_for_rules, extra) {
        Ok(Started::Ready(running)) => Ok(running),
        Ok(Started::Refused(outcome, sources)) => {
            draw(&sources, &outcome.problems);
            eprintln!("banyan: the rules are refused; nothing was started");
            Err(Exit::No)
        }
        Err(error) => {
            eprintln!("banyan: {error:#}");
            Err(Exit::Usage)
        }
    }
}

/// The addresses, on stderr: with port 0 only this tells them.
pub fn announce(running: &Running) {
    let settings = &running.shared().settings;
    for listener in &settings.listeners {
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        eprintln!("listening {} {scheme}://{}", listener.name, listener.address);
    }
    eprintln!("listening admin http://{}", settings.admin);
}
