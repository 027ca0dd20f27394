//! Paths of values, step by step.
//!
//! Input: keys. Output: paths as differences show them and rules name them. Must not: write two keys alike.

/// Runs `inner` with `path` one step longer.
pub fn within<T>(path: &mut String, step: &str, inner: impl FnOnce(&mut String) -> T) -> T {
    let before = path.len();
    path.push_str(step);
    let result = inner(path);
    path.truncate(before);
    result
}

/// `.name`, or `["a name"]` where it would be read as something else.
pub fn step(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { format!(".{key}") } else { format!("[{}]", serde_json::Value::from(key)) }
}
