//! `banyan fmt` and `banyan schema`.
//!
//! Input: rule files. Output: the same values, laid out; the JSON Schema. Must not: write a file that reads differently
//! afterwards, or leave a half-written one.

use crate::exit::Exit;
use crate::rule_dir;
use crate::say;
use crate::say_raw;
use banyan_routes::fmt::format;
use std::io::Write;
use std::path::{Path, PathBuf};

pub fn fmt(dir: &Path, check: bool) -> Exit {
    let paths = if dir.is_file() { Ok(vec![dir.to_owned()]) } else { rule_dir::paths(dir) };
    let paths = match paths {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("banyan: {}: {error}", dir.display());
            return Exit::Usage;
        }
    };
    let mut exit = Exit::Ok;
    for path in paths {
        match one(&path, check) {
            Ok(true) => {
                say!("{}", path.display());
                exit = if check { Exit::No } else { exit };
            }
            Ok(false) => {}
            Err(error) => {
                eprintln!("banyan: {}: {error}", path.display());
                exit = Exit::No;
            }
        }
    }
    exit
}

/// Whether the file was, or would be, changed.
fn one(path: &Path, check: bool) -> Result<bool, String> {
    // A link stays a link; what it leads to is laid out.
    let path = &path.canonicalize().map_err(|error| error.to_string())?;
    let before = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let after = format(&before)?;
    if before == after || check {
        return Ok(before != after);
    }
    // A rename is one step for whoever watches the directory.
    let beside: PathBuf = path.with_extension("fmt-tmp");
    let write = || {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(after.as_bytes())?;
        file.sync_all()?;
        std::fs::set_permissions(&beside, std::fs::metadata(path)?.permissions())?;
        std::fs::rename(&beside, path)
    };
    write().map(|()| true).map_err(|error| error.to_string())
}

pub fn schema() -> Exit {
    say_raw!("{}", banyan_routes::schema::schema_json());
    Exit::Ok
}
