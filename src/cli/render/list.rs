//! Lists of objects: docker's aligned tables, one JSON object a line, or a template for each.

use serde_json::{Map, Value};

pub use super::data::LABEL;
use super::template::{Template, TemplateError};

/// A column: the field's name in templates, its heading in tables.
pub type Column = (&'static str, &'static str);

/// The narrowest column and the gap between columns, as docker's CLI has them.
const NARROWEST: usize = 10;
const GAP: usize = 3;

/// How a list is shown.
#[derive(Debug)]
pub enum Layout {
    /// Aligned columns under headings.
    Table(Template),
    /// One line of JSON for each.
    Json,
    /// The template for each.
    Each(Template),
    /// Nothing but this field of each.
    Only(&'static str),
}

impl Layout {
    /// The same, where `quiet` leaves of the usual table nothing but the field `id`, as docker has it.
    pub fn parse_or_quiet(
        format: Option<&str>,
        quiet: bool,
        id: &'static str,
        default: &str,
    ) -> Result<Self, TemplateError> {
        match format.map(|format| format.trim_matches(' ')) {
            None | Some("table" | "") if quiet => Ok(Self::Only(id)),
            format => Self::parse(format, default),
        }
    }

    /// What `--format` asks for; without it, a table of the fields in `default`.
    pub fn parse(format: Option<&str>, default: &str) -> Result<Self, TemplateError> {
        match format.map(|format| format.trim_matches(' ')) {
            None | Some("table" | "") => Ok(Self::Table(Template::parse(default)?)),
            Some("json") => Ok(Self::Json),
            // As docker: what begins with the word is a table, whatever follows it.
            Some(format) => match format.strip_prefix("table") {
                Some(rest) => Ok(Self::Table(Template::parse_with_escapes(rest.trim_matches(' '))?)),
                None => Ok(Self::Each(Template::parse_with_escapes(format)?)),
            },
        }
    }

    /// Shows `rows`, whose fields `columns` name.
    pub fn render(&self, columns: &[Column], rows: &[Value]) -> Result<String, TemplateError> {
        match self {
            Self::Json => {
                let whole = |row: &Value| match row.as_object() {
                    // What templates look single labels up in is no field.
                    Some(fields) if fields.contains_key(LABEL) => {
                        let fields: Map<String, Value> =
                            fields.clone().into_iter().filter(|(name, _)| name != LABEL).collect();
                        format!("{}\n", Value::Object(fields))
                    }
                    _ => format!("{row}\n"),
                };
                Ok(rows.iter().map(whole).collect())
            }
            Self::Only(field) => {
                let ids = rows.iter().filter_map(|row| row.get(field).and_then(Value::as_str));
                Ok(ids.map(|id| super::super::output::clean(id) + "\n").collect())
            }
            Self::Each(template) => rows
                .iter()
                .map(|row| template.render(row).map(|line| super::super::output::clean(&line) + "\n"))
                .collect(),
            Self::Table(template) => {
                let mut headings: Map<String, Value> =
                    columns.iter().map(|(name, heading)| ((*name).to_owned(), Value::from(*heading))).collect();
                headings.insert(LABEL.to_owned(), Value::Null);
                let mut lines = vec![template.headings(&Value::Object(headings))];
                for row in rows {
                    lines.push(super::super::output::clean(&template.render(row)?));
                }
                Ok(align(&lines))
            }
        }
    }
}

/// Aligns cells that tabs separate; the last cell of a line is as wide as it is.
pub fn align(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for line in &cells {
        for (at, cell) in line.iter().enumerate().take(line.len() - 1) {
            let width = NARROWEST.max(cell.chars().count() + GAP);
            match widths.get_mut(at) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for line in cells {
        for (at, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < line.len() {
                text.extend(std::iter::repeat_n(' ', widths[at] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_are_read_as_docker_reads_them() {
        let columns: &[Column] = &[("ID", "IMAGE ID"), ("Names", "NAMES")];
        let rows = [json!({"ID": "one", "Names": "a,b", "Label": {"k": "v"}})];
        for (format, expected) in [
            (r"{{.ID}}\t{{.Names}}\n", "one\ta,b\n\n"),
            (r#"{{.ID}}{{"\t"}}{{.Names}}"#, "one\ta,b\n"),
            (r#"{{printf "%s\n" .ID}}"#, "one\n\n"),
            (r"table {{.ID}}\t{{upper .Names}}", "IMAGE ID   NAMES\none        A,B\n"),
            (r"table{{.ID}}", "IMAGE ID\none\n"),
            (r#"table {{.ID}}\t{{index (split .Names ",") 1}}"#, "IMAGE ID   \none        b\n"),
            (r#"table {{.ID}}\t{{.Label "k"}}"#, "IMAGE ID   k\none        v\n"),
            ("{{json .}}", "{\"ID\":\"one\",\"Names\":\"a,b\"}\n"),
            ("json", "{\"ID\":\"one\",\"Names\":\"a,b\"}\n"),
        ] {
            let layout = Layout::parse(Some(format), "{{.ID}}").unwrap();
            assert_eq!(layout.render(columns, &rows).unwrap(), expected, "{format}");
        }
    }
}
