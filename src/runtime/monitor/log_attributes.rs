//! What docker's json-file driver adds to each line of a log, `attrs`: the labels and variables that are asked for, and a
//! tag (moby `daemon/logger/loginfo.go`, `loggerutils/log_tag.go`).

use std::collections::BTreeMap;

use regex::Regex;

use super::super::container::Container;
use super::super::error::RuntimeError;

/// The most bytes of a log's attributes as JSON: they are in every line.
const MOST_BYTES: usize = 64 << 10;

/// The attributes that a container's `--log-opt` ask for.
pub fn of(container: &Container) -> Result<BTreeMap<String, String>, RuntimeError> {
    let options = &container.host_config.log_config.config;
    let option = |key: &str| options.get(key).map(String::as_str).filter(|text| !text.is_empty());
    let labels: Vec<_> = container.config.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let env: Vec<_> = container.config.env.iter().filter_map(|pair| pair.split_once('=')).collect();
    let mut found = BTreeMap::new();
    let sources = [(labels, "labels", "labels-regex"), (env, "env", "env-regex")];
    for (all, names, pattern) in sources {
        let names: Vec<&str> = option(names).into_iter().flat_map(|names| names.split(',')).collect();
        let bad = |error: regex::Error| RuntimeError::usage(format!("log option {pattern}: {error}"));
        let regex = option(pattern).map(Regex::new).transpose().map_err(bad)?;
        let wanted = |key: &str| names.contains(&key) || regex.as_ref().is_some_and(|regex| regex.is_match(key));
        found.extend(all.into_iter().filter(|(key, _)| wanted(key)).map(|(key, value)| (key.into(), value.into())));
    }
    if let Some(template) = option("tag") {
        found.insert("tag".to_owned(), tag(template, container)?);
    }
    let json = serde_json::to_string(&found).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
    if json.len() > MOST_BYTES {
        let most = MOST_BYTES >> 10;
        return Err(RuntimeError::usage(format!("the labels, env and tag of --log-opt are longer than {most} KiB")));
    }
    Ok(found)
}

/// A tag with its fields put in.
fn tag(template: &str, container: &Container) -> Result<String, RuntimeError> {
    let bad = |why: &str| RuntimeError::usage(format!("log option tag {template:?}: {why}"));
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or_else(|| bad("unclosed action"))?;
        let image = container.image.to_string();
        text.push_str(before);
        text.push_str(&match action.trim() {
            ".ID" => container.short_id().to_owned(),
            ".FullID" => container.id.clone(),
            ".Name" => container.name.clone(),
            // Docker's first twelve characters have the algorithm among them.
            ".ImageID" => image.chars().take(12).collect(),
            ".ImageFullID" => image,
            ".ImageName" => container.config.image.clone(),
            ".DaemonName" => "ferry".to_owned(),
            ".Command" => container.command().join(" "),
            other => {
                let why = format!(
                    "{{{{{other}}}}} is not one of ID, FullID, Name, ImageID, ImageFullID, ImageName, DaemonName and Command \
                     with a dot before it"
                );
                return Err(bad(&why));
            }
        });
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(options: &[(&str, &str)]) -> Container {
        let options: BTreeMap<_, _> = options.iter().copied().collect();
        let document = serde_json::json!({
            "Id": "ab".repeat(32), "Name": "one", "Created": "", "Image": format!("sha256:{}", "cd".repeat(32)),
            "Path": "sh", "Args": ["-c", "true"], "Mounts": [],
            "Config": {"Image": "i:1", "Labels": {"a": "1", "b.c": "2", "x": ""}, "Env": ["E=f", "EE=g=h", "bare"]},
            "HostConfig": {"LogConfig": {"Type": "json-file", "Config": options}},
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn labels_variables_and_the_tag_are_dockers() {
        for (options, expected) in [
            (&[][..], &[][..]),
            (&[("max-size", "1m")], &[]),
            (&[("labels", "a,x,nosuch, b.c"), ("env", "E,NO,bare")], &[("E", "f"), ("a", "1"), ("x", "")]),
            (&[("labels-regex", "^b"), ("env-regex", "^E")], &[("E", "f"), ("EE", "g=h"), ("b.c", "2")]),
            (&[("labels", ""), ("env", ","), ("tag", "")], &[]),
            (&[("tag", "x/{{.Name}}/{{ .ID }}/{{.ImageName}}}")], &[("tag", "x/one/abababababab/i:1}")]),
            (&[("tag", "{{.ImageID}} {{.Command}} {{.DaemonName}}")], &[("tag", "sha256:cdcdc sh -c true ferry")]),
        ] {
            let expected: BTreeMap<String, String> =
                expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(of(&container(options)).unwrap(), expected, "{options:?}");
        }
        let long = "x".repeat(MOST_BYTES);
        for (key, value, word) in [
            ("env-regex", "[", "env-regex"),
            ("labels-regex", "(", "labels-regex"),
            ("tag", "{{", "unclosed"),
            ("tag", "{{.Nonsense}}", "{{.Nonsense}} is not one of"),
            ("tag", "{{upper .Name}}", "{{upper .Name}} is not one of"),
            ("tag", long.as_str(), "longer than 64 KiB"),
        ] {
            let failed = of(&container(&[(key, value)])).unwrap_err().to_string();
            assert!(failed.contains(word), "{failed}");
        }
    }
}
