//! Rule files: any text is rules or problems with a place; rules that were formatted mean the same.
#![no_main]

use banyan_routes::compile::compile_sources;
use banyan_routes::fmt::format;
use banyan_routes::problem::{Source, report};
use libfuzzer_sys::fuzz_target;

fn source(text: &str) -> Vec<Source> {
    vec![Source { name: "rules.yaml".into(), text: text.into() }]
}

fuzz_target!(|text: &str| {
    let sources = source(text);
    match compile_sources(&sources) {
        Ok((table, warnings)) => {
            report(&sources, &warnings);
            if let Ok(formatted) = format(text) {
                let again = compile_sources(&source(&formatted));
                let (again, _) = again.unwrap_or_else(|_| panic!("refused once formatted:\n{formatted}"));
                assert_eq!(again.revision, table.revision, "{formatted}");
                assert_eq!(format(&formatted).as_ref(), Ok(&formatted), "formatted twice");
            }
        }
        Err(problems) => assert!(!report(&sources, &problems).is_empty()),
    }
});
