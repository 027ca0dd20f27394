//! A rule directory as texts.
//!
//! Input: a path. Output: its `*.yaml` and `*.yml` files in order of name, and a cheap fingerprint that changes when they do.
//! Must not: descend into folders: a ConfigMap keeps its versions in hidden ones beside the links.

use banyan_routes::problem::Source;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Rule files are text that people write; more than this is a mistake. 100,000 routes take 15 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The rule files of a directory; editors' backups and hidden files are not.
pub fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rules = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // A link that leads nowhere is kept as well: leaving it out would quietly drop its routes.
        if rules && !name.starts_with(['.', '#']) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// All texts of a directory, or the one of a file. A file that is not UTF-8 is an error naming it.
pub fn sources(dir: &Path) -> io::Result<Vec<Source>> {
    let named =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let read = |path: PathBuf| {
        let metadata = path.metadata().map_err(|error| named(&path, error))?;
        if !metadata.is_file() {
            // A pipe would be waited for, for ever.
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}: not a regular file", path.display()),
            ));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{}: over 256 MiB", path.display()),
            ));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| named(&path, error))?;
        // Editors of another world begin a file with a mark that YAML takes for a document.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(Source { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text })
    };
    let paths =
        if dir.is_file() { vec![dir.to_owned()] } else { paths(dir).map_err(|error| named(dir, error))? };
    if paths.is_empty() {
        // Nothing to read is more likely a wrong mount than the wish to answer 404 to everyone.
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{}: no *.yaml or *.yml file in it", dir.display()),
        ));
    }
    paths.into_iter().map(read).collect()
}

/// Name, size, time and inode of every rule file: enough to see that something changed.
pub type Fingerprint = Vec<(PathBuf, u64, Option<SystemTime>, u64)>;

pub fn fingerprint(dir: &Path) -> Fingerprint {
    use std::os::unix::fs::MetadataExt;
    let of = |path: PathBuf| match path.metadata() {
        Ok(metadata) => (path, metadata.len(), metadata.modified().ok(), metadata.ino()),
        Err(_) => (path, 0, None, 0),
    };
    paths(dir).unwrap_or_default().into_iter().map(of).collect()
}
