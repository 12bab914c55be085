//! The part of Go's text/template that docker's users write after `--format`: fields, pipelines, `if`, `range`,
//! `with`, variables, and docker's functions (docker/cli `templates/templates.go`).

use serde_json::Value;

use super::parse::{self, Node};
use super::run;
use crate::base::{Class, Fault};

/// A template that is wrong, or does not fit what it is used on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template parsing error: {0}")]
pub struct TemplateError(pub String);

impl Fault for TemplateError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

impl Template {
    /// Parses a template; `\t` and `\n` written as two characters are a tab and a line break.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        parse::parse(&text).map(Self).map_err(TemplateError)
    }

    /// Renders `data`.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        run::render(&self.0, data).map_err(TemplateError)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, TemplateError> {
        let data = json!({
            "ID": "sha256:abc", "Names": ["a", "b"], "Size": 1234, "Empty": [], "On": true, "None": null,
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"x.y": "z", "b": "c"}},
        });
        Template::parse(template)?.render(&data)
    }

    #[test]
    fn templates_mean_what_they_mean_in_docker() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.ID}}", "sha256:abc"),
            ("{{ .ID }}\\t{{.Size}}", "sha256:abc\t1234"),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[b:c x.y:z]"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{json .}}", ""),
            ("{{.Names | json}}", r#"["a","b"]"#),
            ("{{join .Names \", \"}}", "a, b"),
            ("{{upper .ID}} {{lower \"ABC\"}} {{title \"abc\"}}", "SHA256:ABC abc Abc"),
            ("{{len .Names}}", "2"),
            ("{{slice .ID 7}}", "abc"),
            ("{{slice .ID 0 3}}", "sha"),
            ("{{index .Names 1}}", "b"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{index .Config.Labels \"nothing\"}}", ""),
            ("{{range .Names}}[{{.}}]{{end}}", "[a][b]"),
            ("{{range $i, $n := .Names}}{{$i}}={{$n}};{{end}}", "0=a;1=b;"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "b=c;x.y=z;"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .On}}on{{else}}off{{end}}", "on"),
            ("{{if .None}}on{{else if .Empty}}some{{else}}off{{end}}", "off"),
            ("{{if and .On (eq .Size 1234)}}both{{end}}", "both"),
            ("{{if not .On}}x{{end}}{{if or .None .On}}y{{end}}", "y"),
            ("{{with .Config}}{{len .Env}}{{end}}", "2"),
            ("{{range .Names}}{{println .}}{{end}}", "a\nb\n"),
            ("{{printf \"%s-%d-%v\" .ID .Size .On}}", "sha256:abc-1234-true"),
            ("a {{- .ID -}} b", "asha256:abcb"),
            ("{{/* nothing */}}x", "x"),
            ("{{.None}}", "<no value>"),
            ("{{$.ID}}", "sha256:abc"),
            ("{{split .ID \":\"}}", "[sha256 abc]"),
            ("{{truncate .ID 3}}", "sha"),
            ("{{\"quoted \\\"x\\\"\"}}{{`raw`}}", "quoted \"x\"raw"),
        ] {
            let rendered = render(template).unwrap_or_else(|error| panic!("{template}: {error}"));
            assert!(
                expected.is_empty() && !rendered.starts_with('<') || rendered == expected,
                "{template}: {rendered}"
            );
        }
    }

    #[test]
    fn wrong_templates_are_refused() {
        for template in [
            "{{.ID",
            "{{end}}",
            "{{if .On}}x",
            "{{nothing .ID}}",
            "{{.Nothing}}",
            "{{.ID.More}}",
            "{{index .Names 7}}",
            "{{slice .ID 99}}",
            "{{\"open}}",
            "{{range}}{{end}}",
            "{{}}",
            "{{.ID | }}",
            "{{$x}}",
            "{{(.ID}}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
        let deep = format!("{}{}{}", "{{".to_owned() + &"(".repeat(100_000), ".ID", ")".repeat(100_000) + "}}");
        assert!(render(&deep).is_err());
    }
}
