//! Who may do what on the admin API.
//!
//! Input: the file that `admin.tokens` names. Output: the bearer of a token, by its name and role. Must not: hold a token in the clear, or
//! take the same one for two people.

use super::secrets::{Digest, SecretAt};
use crate::aws::secrets::Secrets;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks at everything.
    Viewer,
    /// Moves routes: promote, hold, resume, share, approve, roll back, kill, and lift the kills of routes and groups; reloads.
    Operator,
    /// Lifts the kill switch of everything as well.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Bearer {
    /// Stands in the audit log as the actor.
    pub name: String,
    pub role: Role,
    digest: Digest,
}

#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Bearer>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: u32,
    tokens: Vec<RawToken>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    name: String,
    role: Role,
    /// Of the token, in hexadecimal: `printf %s "$token" | sha256sum`.
    sha256: Option<String>,
    /// A file that holds the token.
    file: Option<PathBuf>,
    env: Option<String>,
    /// In Secrets Manager.
    secret: Option<String>,
}

impl Tokens {
    pub fn load(path: &Path, secrets: &Secrets) -> Result<Tokens, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let base = path.parent().unwrap_or(Path::new(""));
        read(&text, base, secrets).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Compared as digests: how long that takes says nothing of the token.
    pub fn bearer(&self, token: &str) -> Option<&Bearer> {
        let digest = Digest::of(token.as_bytes());
        self.0.iter().find(|bearer| bearer.digest == digest)
    }
}

fn read(text: &str, base: &Path, secrets: &Secrets) -> Result<Tokens, String> {
    let raw: RawFile = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    if raw.version != 1 {
        return Err(format!("version: {} is not known; expected 1", raw.version));
    }
    let mut bearers: Vec<Bearer> = Vec::new();
    for (number, token) in raw.tokens.into_iter().enumerate() {
        let fail = |text: &str| Err(format!("tokens[{number}] ({}): {text}", token.name));
        let told = SecretAt { sha256: token.sha256, file: token.file, env: token.env, secret: token.secret };
        let digest = match Digest::read(&told, base, secrets) {
            Ok(Some(digest)) => digest,
            // Whose secret is not at hand is nobody, until it is.
            Ok(None) => continue,
            Err(error) => return fail(&error),
        };
        if token.name.contains(char::is_control) || matches!(token.name.as_str(), "controller" | "api") {
            return fail("this name is Banyan's own, or holds a control character");
        }
        if token.name.is_empty() || bearers.iter().any(|other| other.name == token.name) {
            return fail(
                "expected a name of its own: it stands in the audit log, and two approvals are two names",
            );
        }
        if bearers.iter().any(|other| other.digest == digest) {
            return fail("another name has the same token");
        }
        bearers.push(Bearer { name: token.name, role: token.role, digest });
    }
    Ok(Tokens(bearers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_digest_and_a_file_with_a_fault_is_refused() {
        let hex: String = Digest::of(b"secret-of-kim").0.iter().map(|byte| format!("{byte:02x}")).collect();
        let good = format!("version: 1\ntokens: [{{name: kim, role: operator, sha256: {hex}}}]");
        let tokens = read(&good, Path::new(""), &Secrets::default()).unwrap_or_default();
        let kim = tokens.bearer("secret-of-kim").map(|bearer| (bearer.name.as_str(), bearer.role));
        assert_eq!(kim, Some(("kim", Role::Operator)));
        assert!(tokens.bearer("").is_none() && tokens.bearer(&hex).is_none());
        for (bad, why) in [
            ("version: 2\ntokens: []".to_owned(), "version"),
            (good.replace("operator", "king"), "king"),
            (good.replace(&hex, "abc"), "64 hexadecimal"),
            (
                format!("{good}\n")
                    .replace("}]", &format!("}}, {{name: kim, role: viewer, sha256: {}}}]", "0".repeat(64))),
                "of its own",
            ),
            (
                format!("{good}\n")
                    .replace("}]", &format!("}}, {{name: ben, role: viewer, sha256: {hex}}}]")),
                "same token",
            ),
            ("version: 1\ntokens: [{name: x, role: viewer}]".to_owned(), "not both"),
        ] {
            assert!(
                read(&bad, Path::new(""), &Secrets::default()).is_err_and(|error| error.contains(why)),
                "{bad}"
            );
        }
    }
}
