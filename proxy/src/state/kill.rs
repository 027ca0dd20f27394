//! Kill switches by file: `KILL`, `KILL.<group>` and `KILL.<route>` in the state directory.
//!
//! Input: the names in a directory. Output: who is killed. Must not: read what the files hold, or need anything else to be
//! alive; a directory that cannot be read keeps the last answer, so that losing a disk does not lift a kill.

use banyan_routes::table::RouteTable;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Whether a file of the state directory is a switch: stores lie beside them, and are written all the time.
pub fn is_switch(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"KILL"))
}

/// What is killed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillSet {
    pub all: bool,
    /// Names of groups and routes alike.
    pub named: BTreeSet<String>,
}

impl KillSet {
    /// Looks at the directory.
    pub fn read(dir: &Path) -> io::Result<KillSet> {
        let mut set = KillSet::default();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name == "KILL" {
                set.all = true;
            } else if let Some(name) = name.strip_prefix("KILL.") {
                set.named.insert(name.to_owned());
            }
        }
        Ok(set)
    }

    /// And these: `all`, `group:<name>`, `route:<id>`.
    pub fn with(mut self, scopes: &BTreeSet<String>) -> KillSet {
        for scope in scopes {
            match scope.split_once(':') {
                Some((_, name)) => drop(self.named.insert(name.to_owned())),
                None => self.all |= scope == "all",
            }
        }
        self
    }

    /// One flag per route, so that a request asks by position.
    pub fn flags(&self, table: &RouteTable) -> Box<[bool]> {
        let killed = |name: &str| self.named.contains(name);
        let flag = |route| {
            let route: &banyan_routes::table::Route = route;
            self.all || killed(&route.id) || table.group(route).is_some_and(killed)
        };
        table.routes.iter().map(flag).collect()
    }

    /// `all`, `group:<name>` and `route:<name>` of what is on; a name that is neither is reported as it stands.
    pub fn scopes(&self, table: &RouteTable) -> Vec<String> {
        let mut scopes: Vec<String> = self.all.then(|| "all".to_owned()).into_iter().collect();
        for name in &self.named {
            let group = table.groups.iter().any(|group| **group == **name);
            let route = table.position(name.as_str()).is_some();
            scopes.extend(group.then(|| format!("group:{name}")));
            scopes.extend(route.then(|| format!("route:{name}")));
            scopes.extend((!group && !route).then(|| format!("unknown:{name}")));
        }
        scopes
    }
}
