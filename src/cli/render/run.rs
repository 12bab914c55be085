//! Templates: from nodes and data to text.

use std::cmp::Ordering;

use serde_json::Value;

use super::parse::{Call, Node, Pipe, Term};

/// Renders `data`.
pub fn render(nodes: &[Node], data: &Value) -> Result<String, String> {
    let mut run = Run { data, variables: Vec::new(), out: String::new() };
    run.nodes(nodes, data)?;
    Ok(run.out)
}

struct Run<'d> {
    data: &'d Value,
    variables: Vec<(String, Value)>,
    out: String,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let variables = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    self.out.push_str(&show(&value));
                }
                Node::Set(name, pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(condition, then, otherwise) => {
                    let value = self.pipe(condition, dot)?;
                    self.nodes(if truth(&value) { then } else { otherwise }, dot)?;
                }
                Node::With(condition, then, otherwise) => {
                    let value = self.pipe(condition, dot)?;
                    if truth(&value) { self.nodes(then, &value)? } else { self.nodes(otherwise, dot)? }
                }
                Node::Range { key, value, over, body, none } => {
                    let items: Vec<(Value, Value)> = match self.pipe(over, dot)? {
                        Value::Array(items) => {
                            items.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect()
                        }
                        Value::Object(items) => {
                            items.into_iter().map(|(key, item)| (Value::String(key), item)).collect()
                        }
                        Value::Null => vec![],
                        other => return Err(format!("range can't iterate over {}", show(&other))),
                    };
                    if items.is_empty() {
                        self.nodes(none, dot)?;
                    }
                    for (number, item) in items {
                        let before = self.variables.len();
                        self.variables.extend(key.iter().map(|name| (name.clone(), number.clone())));
                        self.variables.extend(value.iter().map(|name| (name.clone(), item.clone())));
                        self.nodes(body, &item)?;
                        self.variables.truncate(before);
                    }
                }
            }
        }
        self.variables.truncate(variables);
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for call in pipe {
            last = Some(self.call(call, last, dot)?);
        }
        last.ok_or_else(|| "missing value for command".into())
    }

    fn call(&self, call: &Call, last: Option<Value>, dot: &Value) -> Result<Value, String> {
        let mut arguments =
            call.arguments.iter().map(|term| self.term(term, dot)).collect::<Result<Vec<Value>, String>>()?;
        match &call.function {
            Some(name) => {
                arguments.extend(last);
                apply(name, arguments)
            }
            None if last.is_some() => Err("a value is no function to pipe into".into()),
            None => match &arguments[..] {
                // Docker's `.Label "key"`: of the headings of a table, which have no labels, the key.
                [Value::Object(labels), Value::String(key)] => {
                    Ok(labels.get(key).cloned().unwrap_or_else(|| "".into()))
                }
                [Value::Null, Value::String(key)] => Ok(key.as_str().into()),
                [_, _, ..] => Err("a value is no function with arguments".into()),
                _ => arguments.pop().ok_or_else(|| "missing value for command".into()),
            },
        }
    }

    fn term(&self, term: &Term, dot: &Value) -> Result<Value, String> {
        match term {
            Term::Dot(path) => field(dot, path),
            Term::Variable(name, path) if name.is_empty() => field(self.data, path),
            Term::Variable(name, path) => {
                let value = self.variables.iter().rev().find(|(known, _)| known == name);
                field(&value.ok_or_else(|| format!("undefined variable \"${name}\""))?.1, path)
            }
            Term::Constant(value) => Ok(value.clone()),
            Term::Inner(pipe, path) => field(&self.pipe(pipe, dot)?, path),
        }
    }
}

fn field(mut value: &Value, path: &[String]) -> Result<Value, String> {
    for name in path {
        value = match value {
            Value::Object(fields) => {
                fields.get(name).ok_or_else(|| format!("can't evaluate field {name}: there is none of that name"))?
            }
            other => return Err(format!("can't evaluate field {name} in {}", show(other))),
        };
    }
    Ok(value.clone())
}

/// What Go's templates take for true.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value as Go's fmt prints it.
fn show(value: &Value) -> String {
    let inner = |value: &Value| if value.is_null() { "<nil>".to_owned() } else { show(value) };
    match value {
        Value::Null => "<no value>".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(inner).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut shown: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{}", inner(value))).collect();
            shown.sort_unstable();
            format!("map[{}]", shown.join(" "))
        }
    }
}

fn apply(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let wrong = || format!("wrong arguments for {name}");
    let text = |at: usize| arguments.get(at).and_then(Value::as_str).ok_or_else(wrong);
    let number =
        |at: usize| arguments.get(at).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong);
    let two = || match &arguments[..] {
        [a, b] => Ok((a, b)),
        _ => Err(wrong()),
    };
    match name {
        "json" => Ok(Value::String(arguments.first().ok_or_else(wrong)?.to_string())),
        "join" => {
            let items = arguments.first().and_then(Value::as_array).ok_or_else(wrong)?;
            Ok(Value::String(items.iter().map(show).collect::<Vec<_>>().join(text(1)?)))
        }
        "split" => Ok(Value::Array(text(0)?.split(text(1)?).map(Value::from).collect())),
        "upper" => Ok(Value::String(text(0)?.to_uppercase())),
        "lower" => Ok(Value::String(text(0)?.to_lowercase())),
        "title" => {
            let mut chars = text(0)?.chars();
            let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            Ok(Value::String(first + chars.as_str()))
        }
        "truncate" => Ok(Value::String(text(0)?.chars().take(number(1)?).collect())),
        "pad" => {
            let spaces = |at| number(at).map(|n| " ".repeat(n.min(1000)));
            Ok(if text(0)?.is_empty() {
                Value::from("")
            } else {
                Value::String(format!("{}{}{}", spaces(1)?, text(0)?, spaces(2)?))
            })
        }
        "len" => Ok(Value::from(match arguments.first() {
            Some(Value::String(text)) => text.len(),
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(fields)) => fields.len(),
            _ => return Err(wrong()),
        })),
        "slice" => {
            let from = number(1)?;
            match arguments.first() {
                Some(Value::String(text)) => {
                    let to = if arguments.len() > 2 { number(2)? } else { text.len() };
                    text.get(from..to).map(Value::from).ok_or_else(|| "slice: index out of range".into())
                }
                Some(Value::Array(items)) => {
                    let to = if arguments.len() > 2 { number(2)? } else { items.len() };
                    let items = items.get(from..to).ok_or("slice: index out of range")?;
                    Ok(Value::Array(items.to_vec()))
                }
                _ => Err(wrong()),
            }
        }
        "index" => {
            let mut value = arguments.first().ok_or_else(wrong)?.clone();
            for key in &arguments[1..] {
                value = match (&value, key) {
                    (Value::Array(items), key) => {
                        let at = key.as_u64().and_then(|at| usize::try_from(at).ok());
                        at.and_then(|at| items.get(at)).cloned().ok_or("index: index out of range")?
                    }
                    // The zero value, as of Go's maps of strings.
                    (Value::Object(fields), Value::String(key)) => fields.get(key).cloned().unwrap_or(Value::from("")),
                    (Value::Null, _) => Value::from(""),
                    _ => return Err(wrong()),
                };
            }
            Ok(value)
        }
        "print" => Ok(Value::String(arguments.iter().map(show).collect())),
        "println" => Ok(Value::String(arguments.iter().map(show).collect::<Vec<_>>().join(" ") + "\n")),
        "printf" => printf(&arguments).ok_or_else(wrong),
        "not" => Ok(Value::Bool(!truth(arguments.first().ok_or_else(wrong)?))),
        "and" => choose(&arguments, false).ok_or_else(wrong),
        "or" => choose(&arguments, true).ok_or_else(wrong),
        "eq" => {
            let (first, rest) = arguments.split_first().filter(|(_, rest)| !rest.is_empty()).ok_or_else(wrong)?;
            Ok(Value::Bool(rest.iter().any(|other| other == first)))
        }
        "ne" => two().map(|(a, b)| Value::Bool(a != b)),
        "lt" | "le" | "gt" | "ge" => {
            let (a, b) = two()?;
            let order = compare(a, b).ok_or_else(wrong)?;
            Ok(Value::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        _ => Err(format!("function {name:?} not defined")),
    }
}

/// The first argument whose truth is `wanted`, or the last.
fn choose(arguments: &[Value], wanted: bool) -> Option<Value> {
    arguments.iter().find(|value| truth(value) == wanted).or(arguments.last()).cloned()
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// The verbs s, v, d and q, without widths.
fn printf(arguments: &[Value]) -> Option<Value> {
    let (format, mut rest) = arguments.split_first()?;
    let mut out = String::new();
    let mut chars = format.as_str()?.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            '%' => out.push('%'),
            verb @ ('s' | 'v' | 'd' | 'q') => {
                let (value, others) = rest.split_first()?;
                rest = others;
                out.push_str(&if verb == 'q' { format!("{:?}", show(value)) } else { show(value) });
            }
            _ => return None,
        }
    }
    Some(Value::String(out))
}
