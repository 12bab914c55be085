//! `--change`: one instruction of a Dockerfile that alters how containers of an image run, as `docker import` and
//! `docker commit` take them (moby `builder/dockerfile/dispatchers.go`, buildkit `frontend/dockerfile/instructions`). Variables
//! are put in but for `CMD`, `ENTRYPOINT`, `HEALTHCHECK` and `ONBUILD`: those of the environment as earlier changes leave it.

mod expand;

use self::expand::Variables;
use super::config::{Healthcheck, RunConfig, Words};
use super::signal;
use crate::base::{Class, Fault};

/// An instruction that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid change {change:?}: {reason}")]
pub struct ChangeError {
    change: String,
    reason: String,
}

impl Fault for ChangeError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// Applies instructions in their order. `ENTRYPOINT` takes an inherited `CMD` away, as in a Dockerfile.
pub fn apply(config: &mut RunConfig, changes: &[String]) -> Result<(), ChangeError> {
    let (mut command_set, mut left) = (false, expand::MOST_BYTES);
    for change in changes {
        one(config, change, &mut command_set, &mut left)
            .map_err(|reason| ChangeError { change: change.clone(), reason })?;
    }
    Ok(())
}

fn one(config: &mut RunConfig, change: &str, command_set: &mut bool, left: &mut usize) -> Result<(), String> {
    let change = change.trim();
    let (instruction, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err("an instruction and its arguments are expected".into());
    }
    let mut variables = Variables::of(&config.env, left);
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => {
            config.cmd = Some(command(config, rest));
            *command_set = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(config, rest));
            if !*command_set {
                config.cmd = None;
            }
        }
        "ENV" => {
            for (key, value) in pairs(rest, &mut variables)? {
                let entry = format!("{key}={value}");
                let same = |old: &&mut String| old.split('=').next() == Some(key.as_str());
                match config.env.iter_mut().find(same) {
                    Some(old) => *old = entry,
                    None => config.env.push(entry),
                }
            }
        }
        "EXPOSE" => {
            for word in rest.split_whitespace() {
                // A variable may hold several.
                for word in variables.expand(word)?.split_whitespace() {
                    for port in ports(word)? {
                        config.exposed_ports.insert(port, serde_json::json!({}));
                    }
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, &mut variables)?),
        "ONBUILD" => {
            let next = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if matches!(next.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(format!("{next} is not allowed after ONBUILD"));
            }
            config.on_build.get_or_insert_default().push(rest.to_owned());
        }
        "STOPSIGNAL" => {
            let signal = single(rest, &mut variables)?;
            if signal::number(&signal).is_none() {
                return Err(format!("invalid signal: {signal}"));
            }
            config.stop_signal = Some(signal);
        }
        "USER" => config.user = single(rest, &mut variables)?,
        "VOLUME" => {
            let volumes = json_words(rest).unwrap_or_else(|| rest.split_whitespace().map(Into::into).collect());
            for volume in volumes {
                let volume = variables.expand(&volume)?;
                if volume.trim().is_empty() {
                    return Err("a volume is a path".into());
                }
                config.volumes.insert(volume, serde_json::json!({}));
            }
        }
        "WORKDIR" => {
            let path = variables.expand(rest)?;
            if path.is_empty() {
                return Err("a directory is expected".into());
            }
            config.working_dir = join(&config.working_dir, &path);
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(config, rest)?),
        other => {
            return Err(format!(
                "{other} is not one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, \
                 VOLUME and WORKDIR"
            ));
        }
    }
    Ok(())
}

/// `["a", "b"]`, or a line for the shell.
fn command(config: &RunConfig, text: &str) -> Words {
    Words::List(json_words(text).unwrap_or_else(|| shell(config, text)))
}

fn shell(config: &RunConfig, text: &str) -> Vec<String> {
    let mut words = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    words.push(text.to_owned());
    words
}

fn json_words(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn single(text: &str, variables: &mut Variables<'_>) -> Result<String, String> {
    match &words(text)[..] {
        [word] => variables.expand(word),
        // Between braces words may be apart.
        words if words.iter().any(|word| word.contains("${")) => variables.expand(text),
        _ => Err("exactly one argument is expected".into()),
    }
}

/// `KEY=VALUE …`, or the old form `KEY the rest`.
fn pairs(text: &str, variables: &mut Variables<'_>) -> Result<Vec<(String, String)>, String> {
    let words = words(text);
    let first = words.first().ok_or("KEY=VALUE is expected")?;
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or("KEY=VALUE is expected")?;
        return Ok(vec![pair(key, value.trim(), variables)?]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => pair(key, value, variables),
            None => Err(format!("{word:?} is not KEY=VALUE")),
        })
        .collect()
}

fn pair(key: &str, value: &str, variables: &mut Variables<'_>) -> Result<(String, String), String> {
    let (key, value) = (variables.expand(key)?, variables.expand(value)?);
    if key.is_empty() { Err("a name is empty".into()) } else { Ok((key, value)) }
}

/// Words as the shell's quotes hold them together, which stay (buildkit `frontend/dockerfile/parser/line_parsers.go`).
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// `80`, `53/udp`, `8000-8002/tcp`.
fn ports(word: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{word:?} is not PORT[-PORT][/tcp|/udp|/sctp]");
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// An absolute path, or one below the directory that is set.
fn join(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = if path.starts_with('/') { vec![] } else { base.split('/').collect() };
    parts.extend(path.split('/'));
    let mut clean: Vec<&str> = Vec::new();
    for part in parts {
        match part {
            "" | "." => {}
            ".." => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    format!("/{}", clean.join("/"))
}

fn healthcheck(config: &RunConfig, mut text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    while let Some(option) = text.strip_prefix("--") {
        let (option, rest) = option.split_once(char::is_whitespace).ok_or("CMD or NONE is expected")?;
        let (name, value) = option.split_once('=').ok_or_else(|| format!("--{option} has no value"))?;
        let time = || {
            let time = value.parse::<jiff::SignedDuration>().ok().and_then(|time| i64::try_from(time.as_nanos()).ok());
            time.filter(|time| *time >= 0).ok_or_else(|| format!("{value:?} is not a duration such as 30s"))
        };
        match name {
            "interval" => check.interval = Some(time()?),
            "timeout" => check.timeout = Some(time()?),
            "start-period" => check.start_period = Some(time()?),
            "start-interval" => check.start_interval = Some(time()?),
            "retries" => {
                let retries = value.parse::<u32>().map_err(|_| format!("{value:?} is not a number"))?;
                check.retries = Some(i64::from(retries));
            }
            other => return Err(format!("unknown flag --{other}")),
        }
        text = rest.trim_start();
    }
    let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.trim().is_empty() => vec!["NONE".into()],
        "CMD" if !rest.trim().is_empty() => match json_words(rest.trim()) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            // The shell is the image's; docker keeps the line.
            None => vec!["CMD-SHELL".into(), shell(config, rest.trim()).pop().unwrap_or_default()],
        },
        _ => return Err("CMD and a command, or NONE, are expected".into()),
    };
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_changes_what_it_changes_in_docker() {
        let changes = [
            r#"CMD ["a", "b c"]"#,
            "cmd echo $HOME",
            "ENV A=1 B=\"two words\" C=x\\ y",
            "ENV A 3 and more",
            "EXPOSE 80 53/udp 8000-8001",
            "LABEL \"a.b\"='c d' e=f",
            "ONBUILD RUN make",
            "STOPSIGNAL SIGKILL",
            "USER me:us",
            r#"VOLUME ["/data", "/log"]"#,
            "VOLUME /x /y",
            "WORKDIR /a",
            "WORKDIR b/../c",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f http://localhost",
        ];
        let mut config = RunConfig { env: vec!["PATH=/bin".into(), "A=0".into()], ..RunConfig::default() };
        apply(&mut config, &changes.map(Into::into)).unwrap();
        insta::assert_json_snapshot!(config, @r#"
        {
          "User": "me:us",
          "ExposedPorts": {
            "53/udp": {},
            "80/tcp": {},
            "8000/tcp": {},
            "8001/tcp": {}
          },
          "Env": [
            "PATH=/bin",
            "A=3 and more",
            "B=two words",
            "C=x y"
          ],
          "Entrypoint": null,
          "Cmd": [
            "/bin/sh",
            "-c",
            "echo $HOME"
          ],
          "Volumes": {
            "/data": {},
            "/log": {},
            "/x": {},
            "/y": {}
          },
          "WorkingDir": "/a/c",
          "Labels": {
            "a.b": "c d",
            "e": "f"
          },
          "StopSignal": "SIGKILL",
          "Healthcheck": {
            "Test": [
              "CMD-SHELL",
              "curl -f http://localhost"
            ],
            "Interval": 90000000000,
            "Retries": 3
          },
          "OnBuild": [
            "RUN make"
          ]
        }
        "#);
        apply(&mut config, &[r#"ENTRYPOINT ["/e"]"#.into(), "HEALTHCHECK NONE".into()]).unwrap();
        assert_eq!(config.cmd, None);
        assert_eq!(config.healthcheck.unwrap().test, ["NONE"]);
        let both = ["CMD x".to_owned(), r#"ENTRYPOINT ["/e"]"#.to_owned()];
        let mut config = RunConfig::default();
        apply(&mut config, &both).unwrap();
        assert!(config.cmd.is_some());
    }

    #[test]
    fn variables_are_those_of_the_image_and_of_earlier_changes() {
        let changes = [
            "ENV PATH=/x:$PATH A=$B C=$B B=2",
            "ENV A ${U:-of $B} \"and\" '$B'",
            "ENV Q='$A' E=\\$A",
            "LABEL l$B=\"$A\" m=${PATH}",
            "EXPOSE $B ${PORTS:-80}",
            "USER ${U:-me}:$B",
            "STOPSIGNAL ${S:-SIGINT}",
            "VOLUME [\"/v$B\"]",
            "WORKDIR /w/$B",
            "CMD echo $A",
            "ONBUILD RUN $A",
        ];
        // Words are told apart before variables are put in.
        assert!(apply(&mut RunConfig::default(), &["EXPOSE ${PORTS:-80 81}".into()]).is_err());
        let mut config = RunConfig { env: vec!["PATH=/bin".into(), "B=1".into()], ..RunConfig::default() };
        apply(&mut config, &changes.map(Into::into)).unwrap();
        assert_eq!(config.env, ["PATH=/x:/bin", "B=2", "A=of 2 and $B", "C=1", "Q=$A", "E=$A"]);
        let labels: Vec<_> = config.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(labels, [("l2", "of 2 and $B"), ("m", "/x:/bin")]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["2/tcp", "80/tcp"]);
        assert_eq!((config.user.as_str(), config.stop_signal.as_deref()), ("me:2", Some("SIGINT")));
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/v2"]);
        assert_eq!(config.working_dir, "/w/2");
        assert_eq!(config.cmd.unwrap().to_vec(), ["/bin/sh", "-c", "echo $A"]);
        assert_eq!(config.on_build.unwrap(), ["RUN $A"]);
        let mut config = RunConfig { env: vec!["A=xxxxxxxx".into()], ..RunConfig::default() };
        let failed = apply(&mut config, &vec!["ENV A=$A$A".to_owned(); 40]).unwrap_err().to_string();
        assert!(failed.contains("ENV A=$A$A") && failed.contains("1 MiB"), "{failed}");
    }

    #[test]
    fn wrong_instructions_are_refused() {
        for wrong in [
            "",
            "CMD",
            "RUN x",
            "FROM x",
            "ENV",
            "ENV A",
            "ENV A=1 B",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 9-8",
            "EXPOSE 1/icmp",
            "LABEL a='b",
            "ONBUILD FROM x",
            "USER a b",
            "USER ${A:-x",
            "ENV A=${A/x/y}",
            "ENV $A=x",
            "WORKDIR $A",
            "STOPSIGNAL SIGNOPE",
            "STOPSIGNAL 65",
            "STOPSIGNAL $A",
            "HEALTHCHECK",
            "HEALTHCHECK --x=1 CMD y",
            "HEALTHCHECK --interval=x CMD y",
            "HEALTHCHECK NONE x",
            "VOLUME [\"\"]",
        ] {
            assert!(apply(&mut RunConfig::default(), &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
