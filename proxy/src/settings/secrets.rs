//! Secrets that are known by their digest only.
//!
//! Input: `sha256` in hexadecimal, or a file that holds the secret. Output: the digest. Must not: keep the secret.

use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Shorter ones could be guessed.
const LENGTH_MIN: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(secret: &[u8]) -> Digest {
        Digest(Sha256::digest(secret).into())
    }

    pub fn read(sha256: Option<&str>, file: Option<&Path>, base: &Path) -> Result<Digest, String> {
        match (sha256, file) {
            (Some(hex), None) => unhex(hex).ok_or_else(|| "sha256: expected 64 hexadecimal digits".into()),
            (None, Some(path)) => {
                let path = base.join(path);
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| format!("file: {}: {error}", path.display()))?;
                let secret = text.trim();
                if secret.len() < LENGTH_MIN {
                    return Err(format!("file: the secret is shorter than {LENGTH_MIN} bytes"));
                }
                Ok(Digest::of(secret.as_bytes()))
            }
            _ => Err("expected `sha256` or `file`, and not both".into()),
        }
    }
}

fn unhex(text: &str) -> Option<Digest> {
    let digit = |at: usize| text.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Vec<u8> = (0..32).map(digit).collect::<Option<_>>()?;
    (text.len() == 64).then(|| bytes.try_into().ok().map(Digest))?
}
