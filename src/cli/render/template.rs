//! The part of Go's text/template that docker's users write after `--format`: fields, pipelines, `if`, `range`, `with`,
//! variables, templates within templates, and the functions of both.

use serde_json::Value;

use super::data::Data;
use super::parse::{self, Parsed};
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
pub struct Template(Parsed);

impl Template {
    /// Parses a template as it stands.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        parse::parse(text, false).map(Self).map_err(TemplateError)
    }

    /// The same for docker's lists: `\t` and `\n` written as two characters in its text are a tab and a line break.
    pub fn parse_with_escapes(text: &str) -> Result<Self, TemplateError> {
        parse::parse(text, true).map(Self).map_err(TemplateError)
    }

    /// Renders `data`.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        run::render(&self.0, &Data::of(data), false).map_err(TemplateError)
    }

    /// Renders a document of `inspect`: as docker does it, by the names that its structs have in Go, and as it stands if
    /// the template does not fit those, as `{{.Id}}` does not.
    pub fn render_document(&self, data: &Value) -> Result<String, TemplateError> {
        let typed = run::render(&self.0, &Data::of(data), true);
        typed.or_else(|_| run::render(&self.0, &Data::raw(data), false)).map_err(TemplateError)
    }

    /// Renders the headings of a table.
    pub fn headings(&self, headings: &Value) -> String {
        run::headings(&self.0, &Data::of(headings))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_taken_by_gos_names_or_as_it_stands() {
        let data = json!({"Id": "abc", "HostConfig": {"Dns": [], "PidsLimit": null, "NanoCpus": 5}, "Name": "/a"});
        for (template, expected) in [
            ("{{.ID}} {{.HostConfig.PidsLimit}}", Ok("abc <nil>")),
            ("{{.Id}} {{.HostConfig.PidsLimit}}", Ok("abc <no value>")),
            ("{{.HostConfig.DNS}} {{.HostConfig.NanoCPUs}}", Ok("[] 5")),
            ("{{.HostConfig.Dns}} {{.HostConfig.NanoCpus}}", Ok("[] 5")),
            ("{{.Id}} {{.HostConfig}}", Ok("abc map[Dns:[] NanoCpus:5 PidsLimit:<nil>]")),
            ("{{.Id}} {{.ID}}", Err(())),
            ("{{.Nonsense}}", Err(())),
        ] {
            let rendered = Template::parse(template).unwrap().render_document(&data);
            assert_eq!(rendered.as_deref().map_err(|_| ()), expected, "{template}");
        }
    }

    fn render(template: &str) -> Result<String, TemplateError> {
        let data = json!({
            "ID": "sha256:abc", "Names": ["a", "b"], "Size": 1234, "Empty": [], "On": true, "None": null,
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"x.y": "z", "b": "c"}, "ExposedPorts": {"80/tcp": {}}},
            "HostConfig": {"CapAdd": null, "Init": null, "RestartPolicy": {"MaximumRetryCount": 0, "Name": "no"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": null},
            "State": {"Health": null},
        });
        Template::parse(template)?.render(&data)
    }

    #[test]
    fn templates_mean_what_they_mean_in_docker() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.ID}}", "sha256:abc"),
            ("{{ .ID }}\\t{{.Size}}\\n", "sha256:abc\\t1234\\n"),
            ("{{.ID}}{{\"\\t\"}}{{\"\\n\"}}", "sha256:abc\t\n"),
            ("{{range .Names}}{{.}}{{\"\\n\"}}{{end}}", "a\nb\n"),
            (
                "{{printf \"%s\\n\" .ID}}{{printf \"%.3s|%-5d|%05d|%q\" .ID .Size .Size .Names}}",
                "sha256:abc\nsha|1234 |01234|[\"a\" \"b\"]",
            ),
            ("{{$x := \"a\"}}{{if .On}}{{$x = \"b\"}}{{end}}{{$x}}", "b"),
            ("{{$x := \"a\"}}{{if .On}}{{$x := \"b\"}}{{end}}{{$x}}", "a"),
            ("{{$n := 0}}{{range $i, $v := .Names}}{{$n = $i}}{{end}}{{$n}}", "1"),
            ("{{with $c := .Config}}{{len $c.Env}}{{len .Env}}{{end}}", "22"),
            ("{{if $x := .ID}}{{$x}}{{else}}{{$x}}{{end}}", "sha256:abc"),
            ("{{range .Config.Env}}{{if eq . \"B=2\"}}{{break}}{{end}}{{.}}{{end}}", "A=1"),
            ("{{range .Config.Env}}{{if eq . \"A=1\"}}{{continue}}{{end}}{{.}}{{end}}", "B=2"),
            ("{{range $.Names}}{{range $.Config.Env}}{{.}}{{break}}{{end}};{{end}}", "A=1;A=1;"),
            ("{{html \"<>\"}}{{js \"'\"}}{{urlquery \"a b\"}}", "&lt;&gt;\\'a+b"),
            ("{{print 1 2 \"x\" 3}} {{print .On .On}}", "1 2x3 true true"),
            ("{{.Config.Labels.nosuch}}", "<no value>"),
            ("{{.HostConfig.CapAdd}} {{len .HostConfig.CapAdd}} {{json .HostConfig.CapAdd}}", "[] 0 null"),
            ("{{.Config.Entrypoint}} {{.Config.Volumes}}", "[] map[]"),
            ("{{.HostConfig.Init}} {{.State.Health}} {{.HostConfig.RestartPolicy}}", "<nil> <nil> {no 0}"),
            ("{{if and .State.Health .State.Health.Status}}x{{else}}none{{end}}", "none"),
            ("{{if or .On .State.Health.Status}}x{{end}}", "x"),
            ("{{.Config.ExposedPorts}} {{.Ports}}", "map[80/tcp:{}] map[80/tcp:[{0.0.0.0 8080}] 81/tcp:[]]"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}} {{index .Ports \"1/tcp\"}}", "8080 []"),
            (
                "{{range $p, $c := .Ports}}{{$p}}{{with $c}}={{(index . 0).HostPort}}{{end}} {{end}}",
                "80/tcp=8080 81/tcp ",
            ),
            ("{{index .Config \"Env\"}}", "[A=1 B=2]"),
            ("a\n\t{{- /* x */ -}} \n b", "ab"),
            ("a {{- 3 -}} b {{-3}}", "a3b -3"),
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
            ("{{define \"a\"}}<{{.}}>{{end}}{{template \"a\" .ID}}{{template `a`}}", "<sha256:abc><<no value>>"),
            ("{{block \"b\" .Config}}{{len .Env}}{{len $.Env}}{{end}}{{template \"b\" .Config}}", "2222"),
            ("{{define \"a\"}}x{{end}}{{define \"a\"}} {{end}}{{template \"a\"}}", "x"),
            ("{{define \"a\"}} {{end}}{{block \"a\" .}}x{{end}}|{{template \"a\" .}}", "x|x"),
            (
                "{{template \"a\" .}}{{range .Names}}{{template \"b\" .}}{{end}}\
                 {{define \"a\"}}[{{end}}{{define \"b\"}}{{.}};{{end}}",
                "[a;b;",
            ),
            ("{{define \"a\"}}{{$x := 2}}{{$x}}{{end}}{{$x := 1}}{{template \"a\"}}{{$x}}", "21"),
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
            "{{$x = 1}}",
            "{{if .On}}{{$x := 1}}{{end}}{{$x}}",
            "{{$x, $y := .Names}}",
            "{{range $x, $y, $z := .Names}}{{end}}",
            "{{range $x $y := .Names}}{{end}}",
            "{{$x := }}",
            "{{.ID := 1}}",
            "{{break}}",
            "{{range .Names}}{{else}}{{continue}}{{end}}",
            "{{.State.Health.Status}}",
            "{{.Config.Nothing}}",
            "{{range .ID}}{{end}}",
            "{{len .On}}",
            "{{\"a\nb\"}}",
            "{{(.ID}}",
            "{{template \"nothing\"}}",
            "{{define \"a\"}}x{{end}}{{define \"a\"}}y{{end}}",
            "{{define \"a\"}}x",
            "{{define a}}x{{end}}",
            "{{define \"a\" .}}x{{end}}",
            "{{if .On}}{{define \"a\"}}x{{end}}{{end}}",
            "{{block \"a\"}}x{{end}}",
            "{{template}}",
            "{{template \"a\" . .}}{{define \"a\"}}{{end}}",
            "{{$x := 1}}{{define \"a\"}}{{$x}}{{end}}{{template \"a\"}}",
            "{{range .Names}}{{block \"a\" .}}{{break}}{{end}}{{end}}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
        let deep = format!("{}{}{}", "{{".to_owned() + &"(".repeat(100_000), ".ID", ")".repeat(100_000) + "}}");
        assert!(render(&deep).is_err());
    }

    #[test]
    fn hostile_templates_end() {
        let nested = |times: usize, inner: &str| {
            format!("{}{inner}{}", "{{range $.Many}}".repeat(times), "{{end}}".repeat(times))
        };
        let data = json!({"Many": vec!["x".repeat(1000); 100]});
        for template in [
            nested(50, ""),
            nested(50, "{{range .}}"),
            nested(8, "{{index $.Many 0}}"),
            nested(99, "{{$x := 1}}"),
            nested(200, ""),
            format!("{{{{$x := \"x\"}}}}{}", nested(2, "{{$x = print $x $x}}")),
            format!("{{{{$x := \"x\"}}}}{}", nested(2, "{{$x = printf \"%999999s\" $x}}{{$x}}")),
            "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}".to_owned(),
            "{{define \"a\"}}{{range $.}}{{template \"a\" $}}{{end}}{{end}}{{template \"a\" .Many}}".to_owned(),
            "{{if 1}}".repeat(100_000),
            "{{if 1}}a{{else if 1}}".repeat(100_000),
        ] {
            let rendered = Template::parse(&template).and_then(|template| template.render(&data));
            assert!(rendered.is_err(), "{:.60}", template);
        }
    }
}
