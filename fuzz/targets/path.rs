//! Paths: what is normalised is strict, and stays as it is; what is strict has no reading that leads elsewhere.
#![no_main]

use banyan_routes::path::{normalise, read_path, split_target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    let (path, _) = split_target(target);
    let Ok(read) = read_path(path) else { return };
    assert!(read.text.starts_with('/'));
    if let Ok(normal) = normalise(&read.text) {
        assert_eq!(normalise(&normal).as_ref(), Ok(&normal), "{path:?}");
        assert!(
            !normal.contains("//") && !normal.split('/').any(|it| it == "." || it == ".."),
            "{path:?} {normal:?}"
        );
        if read.strict_fault.is_none() {
            assert_eq!(normal, read.text, "a strict path is normal: {path:?}");
        }
    }
    if read.strict_fault.is_none() {
        // What every server does, in the order most do it.
        let bytes = read.text.as_bytes();
        assert!(!bytes.iter().any(|b| *b < 0x20 || *b == 0x7f || *b == b'\\' || *b == b';'), "{path:?}");
    }
});
