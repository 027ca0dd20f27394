//! A target proves that it keeps shadows apart, before any write is copied to it.
//!
//! Input: the backends of routes with `policy: sandbox`. Output: nothing, or why the rule set is refused. Must not: take silence, or a
//! page that answers everything with 200, for a proof.

use crate::targets::backend::RunningBackend;
use crate::targets::probe;
use crate::targets::supplies::Supplies;
use std::time::Duration;

/// What the request carries, and what the answer has to.
const HEADER: &str = "x-banyan-shadow";
const PROOF: &str = "sandbox";
const WAIT_MAX: Duration = Duration::from_secs(10);

pub async fn prove(backend: &RunningBackend, supplies: &Supplies, path: &str) -> Result<(), String> {
    let asked = probe::get(backend, supplies, path, (HEADER, "1"), WAIT_MAX);
    let (status, headers) = match tokio::time::timeout(WAIT_MAX, asked).await {
        Ok(result) => result.map_err(|error| format!("GET {path}: {error}"))?,
        Err(_) => return Err(format!("GET {path}: no answer within 10 s")),
    };
    let said = headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or("nothing");
    if (200..300).contains(&status) && said.eq_ignore_ascii_case(PROOF) {
        Ok(())
    } else {
        Err(format!("GET {path}: answered {status}, and `X-Banyan-Shadow` says {said}"))
    }
}
