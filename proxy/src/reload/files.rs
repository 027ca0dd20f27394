//! The texts of a rule directory as files that were read.
//!
//! Input: the texts, and what serves. Output: every file read, or every problem of their shapes. Must not: read again what did not change, as long as
//! its parsed form is kept.

use super::Reloader;
use banyan_routes::compile::{PARSED_MAX, ReadFile};
use banyan_routes::problem::{Problem, Source};
use banyan_routes::read::ReadCache;

impl Reloader {
    /// Reads what changed; a file with the same text keeps its parsed form.
    pub(super) fn read(&mut self, sources: &[Source]) -> Result<Vec<ReadFile>, Vec<Problem>> {
        let known = self.serving.as_ref().map_or(&[][..], |serving| &serving.files);
        let mut files = Vec::with_capacity(sources.len());
        let mut problems = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            let before = known.iter().find(|file| file.source.name == source.name);
            if let Some(same) = before.filter(|file| file.lean.is_none() && file.source.text == source.text) {
                files.push(same.clone());
                continue;
            }
            match self.cache.read(number, &source.name, &source.text) {
                Ok(rules) => files.push(ReadFile::again(source.clone(), rules, before)),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() { Ok(files) } else { Err(problems) }
    }

    /// Once they are compiled: of very many routes, the parsed form is not kept. Also when nothing comes of them.
    pub(super) fn lighten(&mut self, files: &mut [ReadFile]) {
        if files.iter().map(|file| file.rules.routes.len()).sum::<usize>() > PARSED_MAX {
            files.iter_mut().for_each(ReadFile::lighten);
            self.cache = ReadCache::default();
        }
    }
}
