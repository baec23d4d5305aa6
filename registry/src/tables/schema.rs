//! Which tables and views are there, in the SQL of each database?
//!
//! `schema.sql` is written in what SQLite and Postgres share. Where they differ it has words of its own: the type that holds
//! JSON, and the three ways to make rows of it, which this file puts into each one's own.

/// Counts up with every change of `schema.sql`. A database with an older one is made anew from the log.
pub(super) const VERSION: i64 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// Whose SQL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// All statements that make the tables.
pub(super) fn statements(dialect: Dialect) -> String {
    let json = if dialect == Dialect::Sqlite { "TEXT" } else { "jsonb" };
    let mut text = SCHEMA.replace("@json", json);
    for (word, function, of) in [
        ("@fields[", "jsonb_each_text", "object"),
        ("@items[", "jsonb_array_elements", "array"),
        ("@names[", "jsonb_array_elements_text", "array"),
    ] {
        while let Some((before, rest)) = text.split_once(word) {
            let Some((value, after)) = rest.split_once(']') else { break };
            let rows = match dialect {
                // What is of another form must not make the whole view fail: here, as what is in a list is taken apart.
                Dialect::Sqlite if word == "@items[" => format!(
                    "json_each(CASE WHEN json_type({value}) = '{of}' AND NOT EXISTS \
                     (SELECT 1 FROM json_each({value}) WHERE type <> 'object') THEN {value} END)"
                ),
                Dialect::Sqlite => format!("json_each(CASE json_type({value}) WHEN '{of}' THEN {value} END)"),
                Dialect::Postgres => format!("{function}(CASE jsonb_typeof({value}) WHEN '{of}' THEN {value} END)"),
            };
            text = format!("{before}{rows}{after}");
        }
    }
    text
}
