//! Templates: from nodes and data to text.

use std::collections::BTreeMap;

use super::data::{Data, Kind, name_of_field};
use super::functions::{apply, keeps_headings};
use super::parse::{Call, Node, Parsed, Pipe, Term};
use super::printf::{bounded, print, show};

/// How much a template may do: one for each node and call, and for each KiB that is made of them.
const MOST_WORK: usize = 1_000_000;

/// How deep blocks, and templates in templates, may go.
const DEPTH: usize = 200;

/// Renders `data`. With `typed` its structs' fields have Go's names.
pub fn render(template: &Parsed, data: &Data, typed: bool) -> Result<String, String> {
    let mut run = Run::new(template, data, typed, false);
    run.nodes(&template.nodes, data)?;
    Ok(run.out)
}

/// Renders the headings of a table. As in docker its functions leave them as they are, and where a template does not
/// fit them they end: it fits the rows.
pub fn headings(template: &Parsed, data: &Data) -> String {
    let mut run = Run::new(template, data, false, true);
    let _ = run.nodes(&template.nodes, data);
    run.out
}

struct Run<'t> {
    defined: &'t BTreeMap<String, Vec<Node>>,
    /// What `$` is.
    data: Data,
    depth: usize,
    typed: bool,
    headings: bool,
    variables: Vec<(String, Data)>,
    out: String,
    work: usize,
}

/// What comes after a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Node,
    Item,
    End,
}

impl<'t> Run<'t> {
    fn new(template: &'t Parsed, data: &Data, typed: bool, headings: bool) -> Self {
        let (defined, data) = (&template.defined, data.clone());
        Self { defined, data, depth: 0, typed, headings, variables: Vec::new(), out: String::new(), work: 0 }
    }

    fn work(&mut self, bytes: usize) -> Result<(), String> {
        self.work += 1 + bytes / 1024;
        if self.work > MOST_WORK { Err("the template does too much".into()) } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.out.push_str(text);
        bounded(self.out.len())
    }

    /// A block: what is declared in it ends with it.
    fn nodes(&mut self, nodes: &[Node], dot: &Data) -> Result<Next, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("nested too deeply".into());
        }
        let variables = self.variables.len();
        let mut next = Next::Node;
        for node in nodes {
            next = self.node(node, dot)?;
            if next != Next::Node {
                break;
            }
        }
        self.variables.truncate(variables);
        self.depth -= 1;
        Ok(next)
    }

    /// A template that is defined: of all variables it sees `$` alone, which is its data.
    fn template(&mut self, name: &str, data: Data) -> Result<(), String> {
        let defined = self.defined;
        let nodes = defined.get(name).ok_or_else(|| format!("template {name:?} not defined"))?;
        let variables = std::mem::take(&mut self.variables);
        let outer = std::mem::replace(&mut self.data, data.clone());
        self.nodes(nodes, &data)?;
        (self.data, self.variables) = (outer, variables);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Data) -> Result<Next, String> {
        self.work(0)?;
        let variables = self.variables.len();
        let next = match node {
            Node::Text(text) => {
                self.write(text)?;
                Next::Node
            }
            Node::Print(pipe) => {
                let value = self.pipe(pipe, dot)?;
                // Declared in a block, for the rest of it.
                if pipe.names.is_empty() {
                    self.write(&print(&value))?;
                }
                return Ok(Next::Node);
            }
            Node::Template(name, data) => {
                let data = data.as_ref().map_or(Ok(Data::Nothing), |data| self.pipe(data, dot))?;
                self.template(name, data)?;
                Next::Node
            }
            Node::Break => Next::End,
            Node::Continue => Next::Item,
            Node::If(condition, then, otherwise) => {
                let value = self.pipe(condition, dot)?;
                self.nodes(if value.truth() { then } else { otherwise }, dot)?
            }
            Node::With(condition, then, otherwise) => {
                let value = self.pipe(condition, dot)?;
                if value.truth() { self.nodes(then, &value)? } else { self.nodes(otherwise, dot)? }
            }
            Node::Range { over, body, none } => self.range(over, body, none, dot)?,
        };
        self.variables.truncate(variables);
        Ok(next)
    }

    fn range(&mut self, over: &Pipe, body: &[Node], none: &[Node], dot: &Data) -> Result<Next, String> {
        let items: Vec<(Data, Data)> = match self.calls(&over.calls, dot)? {
            Data::List(items) => {
                items.iter().enumerate().map(|(at, item)| (Data::Number(at.into()), item.clone())).collect()
            }
            Data::Map(items, _) | Data::Struct(items) => {
                items.iter().map(|(key, item)| (Data::text(key.as_str()), item.clone())).collect()
            }
            Data::Nothing | Data::Nil(Kind::List | Kind::Map) => vec![],
            other => return Err(format!("range can't iterate over {}", print(&other))),
        };
        if items.is_empty() {
            return self.nodes(none, dot);
        }
        for (key, item) in items {
            self.work(0)?;
            let variables = self.variables.len();
            match &over.names[..] {
                [] => {}
                [value] => self.set(value, item.clone(), over.declares)?,
                [first, second, ..] => {
                    self.set(first, key, over.declares)?;
                    self.set(second, item.clone(), over.declares)?;
                }
            }
            let next = self.nodes(body, &item)?;
            self.variables.truncate(variables);
            if next == Next::End {
                break;
            }
        }
        Ok(Next::Node)
    }

    fn set(&mut self, name: &str, value: Data, declares: bool) -> Result<(), String> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        known.ok_or_else(|| format!("undefined variable \"${name}\""))?.1 = value;
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Data) -> Result<Data, String> {
        let value = self.calls(&pipe.calls, dot)?;
        if let Some(name) = pipe.names.first() {
            self.set(name, value.clone(), pipe.declares)?;
        }
        Ok(value)
    }

    fn calls(&mut self, calls: &[Call], dot: &Data) -> Result<Data, String> {
        let mut last = None;
        for call in calls {
            last = Some(self.call(call, last, dot)?);
        }
        last.ok_or_else(|| "missing value for command".into())
    }

    fn call(&mut self, call: &Call, last: Option<Data>, dot: &Data) -> Result<Data, String> {
        self.work(0)?;
        if let Some(name @ ("and" | "or")) = call.function.as_deref() {
            return self.choose(name, &call.arguments, last, dot);
        }
        let mut arguments = Vec::with_capacity(call.arguments.len() + 1);
        for term in &call.arguments {
            arguments.push(self.term(term, dot)?);
        }
        match &call.function {
            Some(name) => {
                arguments.extend(last);
                if self.headings && keeps_headings(name) {
                    return arguments.into_iter().next().ok_or_else(|| format!("wrong arguments for {name}"));
                }
                let value = apply(name, &arguments)?;
                self.work(if let Data::Text(text) = &value { text.len() } else { 0 })?;
                Ok(value)
            }
            None if last.is_some() => Err("a value is no function to pipe into".into()),
            None => match &arguments[..] {
                // Docker's `.Label "key"`: of the headings of a table, which have no labels, the key.
                [Data::Map(labels, _), Data::Text(key)] => {
                    Ok(labels.get(&**key).cloned().unwrap_or_else(|| Data::text("")))
                }
                [Data::Nil(_), Data::Text(key)] => Ok(Data::Text(key.clone())),
                [_, _, ..] => Err("a value is no function with arguments".into()),
                _ => arguments.pop().ok_or_else(|| "missing value for command".into()),
            },
        }
    }

    /// `and` is the first that is false, `or` the first that is true, and what comes after it is not looked at; without
    /// one it is the last.
    fn choose(&mut self, name: &str, terms: &[Term], last: Option<Data>, dot: &Data) -> Result<Data, String> {
        let mut value = None;
        for term in terms {
            let this = self.term(term, dot)?;
            if this.truth() == (name == "or") {
                return Ok(this);
            }
            value = Some(this);
        }
        last.or(value).ok_or_else(|| format!("wrong arguments for {name}"))
    }

    fn term(&mut self, term: &Term, dot: &Data) -> Result<Data, String> {
        match term {
            Term::Dot(path) => field(dot, path, self.typed),
            Term::Variable(name, path) if name.is_empty() => field(&self.data, path, self.typed),
            Term::Variable(name, path) => {
                let value = self.variables.iter().rev().find(|(known, _)| known == name);
                field(&value.ok_or_else(|| format!("undefined variable \"${name}\""))?.1, path, self.typed)
            }
            Term::Constant(value) => Ok(value.clone()),
            Term::Inner(calls, path) => field(&self.calls(calls, dot)?, path, self.typed),
        }
    }
}

/// A field of a field: of a struct it must be there, of a map it need not.
fn field(value: &Data, path: &[String], typed: bool) -> Result<Data, String> {
    let mut value = value.clone();
    for name in path {
        value = match &value {
            Data::Struct(fields) => {
                let known = if typed { name_of_field(name) } else { Some(name.as_str()) };
                let field = known.and_then(|name| fields.get(name)).cloned();
                field.ok_or_else(|| format!("can't evaluate field {name}: there is none of that name"))?
            }
            Data::Map(fields, Kind::Any) => {
                fields.get(name).cloned().ok_or_else(|| format!("map has no entry for key {name:?}"))?
            }
            Data::Map(fields, _) => fields.get(name).cloned().unwrap_or(Data::Nothing),
            Data::Nothing | Data::Nil(Kind::Map) => Data::Nothing,
            Data::Nil(Kind::Pointer) => return Err(format!("nil pointer evaluating field {name}")),
            other => return Err(format!("can't evaluate field {name} in {}", show(other))),
        };
    }
    Ok(value)
}
