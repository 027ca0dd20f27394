//! The JSON Schema of a rule file, generated from the types, for editors.
//!
//! Input: nothing. Output: the text of `routes/rules/schema.json`. Must not: be edited by hand; a test compares.

use crate::file::RuleFile;
use serde_json::Value;

/// The schema, pretty-printed with a newline at the end.
pub fn schema_json() -> String {
    let mut schema = schemars::schema_for!(RuleFile).to_value();
    no_nulls(&mut schema);
    schema["title"] = "Banyan rule file, version 1".into();
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

/// An optional field is left out, not written as null; an editor should say so.
fn no_nulls(value: &mut Value) {
    let null = |value: &Value| value == "null" || value.get("type").is_some_and(|kind| kind == "null");
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(no_nulls);
            if let Some(Value::Array(kinds)) = map.get_mut("type") {
                kinds.retain(|kind| !null(kind));
                if let [only] = kinds.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(options)) = map.get_mut("anyOf") {
                options.retain(|option| !null(option));
                if let [only] = options.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    map.extend(only.as_object().cloned().unwrap_or_default());
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(no_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
