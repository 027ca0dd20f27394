//! Secrets that are known by their digest only.
//!
//! Input: `sha256` in hexadecimal, or where the secret is: a file, a variable, Secrets Manager. Output: the digest. Must not: keep the secret.

use crate::aws::endpoint::env;
use crate::aws::secrets::Secrets;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Shorter ones could be guessed.
const LENGTH_MIN: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

/// One of four ways to say it, as fields beside others.
#[derive(Clone, Debug, Default)]
pub struct SecretAt {
    /// `printf %s "$secret" | sha256sum`
    pub sha256: Option<String>,
    pub file: Option<PathBuf>,
    pub env: Option<String>,
    /// In Secrets Manager: a name or an ARN, with `#FIELD` where it is JSON.
    pub secret: Option<String>,
}

impl Digest {
    pub fn of(secret: &[u8]) -> Digest {
        Digest(Sha256::digest(secret).into())
    }

    /// `None`: Secrets Manager has not given it yet.
    pub fn read(at: &SecretAt, base: &Path, secrets: &Secrets) -> Result<Option<Digest>, String> {
        let (secret, named) = match (&at.sha256, &at.file, &at.env, &at.secret) {
            (Some(hex), None, None, None) => {
                return unhex(hex).map(Some).ok_or_else(|| "sha256: expected 64 hexadecimal digits".into());
            }
            (None, Some(path), None, None) => {
                let path = base.join(path);
                let read = std::fs::read_to_string(&path);
                (read.map_err(|error| format!("file: {}: {error}", path.display()))?, "file")
            }
            (None, None, Some(name), None) => {
                (env(name).ok_or_else(|| format!("env: {name} is not set"))?, "env")
            }
            (None, None, None, Some(reference)) => match secrets.get(reference) {
                Some(secret) => (secret, "secret"),
                None => return Ok(None),
            },
            _ => return Err("expected one of `sha256`, `file`, `env` and `secret`, and not both".into()),
        };
        let secret = secret.trim();
        if secret.len() < LENGTH_MIN {
            return Err(format!("{named}: the secret is shorter than {LENGTH_MIN} bytes"));
        }
        Ok(Some(Digest::of(secret.as_bytes())))
    }
}

fn unhex(text: &str) -> Option<Digest> {
    let digit = |at: usize| text.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Vec<u8> = (0..32).map(digit).collect::<Option<_>>()?;
    (text.len() == 64).then(|| bytes.try_into().ok().map(Digest))?
}
