//! The committed JSON Schema is the one the types give. `BANYAN_BLESS=1` writes it.

#[test]
fn the_committed_schema_is_not_stale() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/rules/schema.json");
    let schema = banyan_routes::schema::schema_json();
    if std::env::var_os("BANYAN_BLESS").is_some() {
        std::fs::write(path, &schema).expect("write schema");
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), schema, "run with BANYAN_BLESS=1");
}
