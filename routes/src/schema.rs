//! The JSON Schema of a rule file, generated from the types, for editors.
//!
//! Input: nothing. Output: the text of `routes/rules/schema.json`. Must not: be edited by hand; a test compares.

use crate::file::RuleFile;

/// The schema, pretty-printed with a newline at the end.
pub fn schema_json() -> String {
    let mut schema = schemars::schema_for!(RuleFile);
    schema.insert("title".into(), "Banyan rule file, version 1".into());
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}
