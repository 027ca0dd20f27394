//! Whether the head of the request that a task serves has been read.
//!
//! Input: the first hook there is. Output: a flag for who waits with a deadline. Must not: outlive the request.

use std::cell::Cell;

tokio::task_local! {
    pub static HEAD_READ: Cell<bool>;
}

pub fn head_is_read() {
    // Where nobody waits, nobody is told.
    let _ = HEAD_READ.try_with(|read| read.set(true));
}
