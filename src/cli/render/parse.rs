//! Templates: from tokens to nodes.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::data::Data;
use super::token::{Piece, Token, pieces};

/// How deep blocks and parentheses may be nested.
const DEPTH: usize = 100;

/// A template, parsed.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// Itself.
    pub nodes: Vec<Node>,
    /// Those that it defines, by name.
    pub defined: BTreeMap<String, Vec<Node>>,
}

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    /// As it stands.
    Text(String),
    /// The value of a pipeline, unless it sets a variable.
    Print(Pipe),
    /// `{{if}}`: then, else.
    If(Pipe, Vec<Node>, Vec<Node>),
    /// `{{with}}`: the same, with the value as the dot.
    With(Pipe, Vec<Node>, Vec<Node>),
    /// `{{range}}`: for each, for none.
    Range {
        /// Over what; the variables are those of key and value, or of the value alone.
        over: Pipe,
        /// For each.
        body: Vec<Node>,
        /// For none.
        none: Vec<Node>,
    },
    /// `{{template}}` or `{{block}}`: one that is defined, with the value as its data.
    Template(String, Option<Pipe>),
    /// `{{break}}`: no more of the range.
    Break,
    /// `{{continue}}`: the next of the range.
    Continue,
}

/// Commands, each of which gets the value of the one before as its last argument, and the variables that are set to it.
#[derive(Debug, Clone)]
pub struct Pipe {
    /// The variables: one at most, and two of a range.
    pub names: Vec<String>,
    /// Whether they are new ones.
    pub declares: bool,
    /// The commands.
    pub calls: Vec<Call>,
}

/// A function and its arguments, or one bare term.
#[derive(Debug, Clone)]
pub struct Call {
    /// The function.
    pub function: Option<String>,
    /// The arguments.
    pub arguments: Vec<Term>,
}

/// A value in a template.
#[derive(Debug, Clone)]
pub enum Term {
    /// `.A.B`: of the dot.
    Dot(Vec<String>),
    /// `$x.A`: of a variable; the empty name is the whole data.
    Variable(String, Vec<String>),
    /// A constant.
    Constant(Data),
    /// In parentheses, and fields of it.
    Inner(Vec<Call>, Vec<String>),
}

/// Parses a template; with `escapes`, `\t` and `\n` in its text are a tab and a line break.
pub fn parse(text: &str, escapes: bool) -> Result<Parsed, String> {
    let pieces = pieces(text, escapes)?.into_iter().peekable();
    let mut parser = Parser { pieces, depth: 0, ranges: 0, defined: BTreeMap::new() };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(Parsed { nodes, defined: parser.defined }),
        Some(_) => Err("unexpected {{end}} or {{else}}".into()),
    }
}

/// What ended a block: `end`, or `else` and the tokens after it.
type End = Option<Option<Vec<Token>>>;

struct Parser {
    pieces: Peekable<IntoIter<Piece>>,
    depth: usize,
    ranges: usize,
    defined: BTreeMap<String, Vec<Node>>,
}

impl Parser {
    fn block(&mut self) -> Result<(Vec<Node>, End), String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("nested too deeply".into());
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => trimmed(tokens),
            };
            match tokens.first() {
                Some(Token::Word(word)) if word == "end" => {
                    self.depth -= 1;
                    return Ok((nodes, Some(None)));
                }
                Some(Token::Word(word)) if word == "else" => {
                    self.depth -= 1;
                    return Ok((nodes, Some(Some(trimmed(tokens[1..].to_vec())))));
                }
                Some(Token::Word(word)) if matches!(word.as_str(), "if" | "with" | "range") => {
                    nodes.push(self.control(word, trimmed(tokens[1..].to_vec()))?);
                }
                Some(Token::Word(word)) if matches!(word.as_str(), "break" | "continue") && tokens.len() == 1 => {
                    if self.ranges == 0 {
                        return Err(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                    }
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                // Only at the top, as in Go.
                Some(Token::Word(word)) if word == "define" && self.depth == 1 => {
                    let (name, rest) = named(word, &tokens)?;
                    if !rest.is_empty() {
                        return Err("unexpected word in define clause".into());
                    }
                    self.define(name)?;
                }
                Some(Token::Word(word)) if word == "block" => {
                    let (name, rest) = named(word, &tokens)?;
                    let data = pipe(&rest, 1)?;
                    self.define(name.clone())?;
                    nodes.push(Node::Template(name, Some(data)));
                }
                Some(Token::Word(word)) if word == "template" => {
                    let (name, rest) = named(word, &tokens)?;
                    let data = if rest.is_empty() { None } else { Some(pipe(&rest, 1)?) };
                    nodes.push(Node::Template(name, data));
                }
                _ => nodes.push(Node::Print(pipe(&tokens, 1)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    /// The body of a template of its own. Of two of a name one may be empty: it is the other that counts.
    fn define(&mut self, name: String) -> Result<(), String> {
        let ranges = std::mem::take(&mut self.ranges);
        let (nodes, end) = self.block()?;
        self.ranges = ranges;
        if end != Some(None) {
            return Err(format!("template {name:?} is not closed by {{{{end}}}}"));
        }
        let is_empty = |nodes: &Vec<Node>| {
            nodes.iter().all(|node| matches!(node, Node::Text(text) if text.chars().all(char::is_whitespace)))
        };
        match self.defined.get(&name) {
            Some(known) if !is_empty(known) && !is_empty(&nodes) => {
                return Err(format!("multiple definition of template {name:?}"));
            }
            Some(known) if !is_empty(known) => {}
            _ => drop(self.defined.insert(name, nodes)),
        }
        Ok(())
    }

    fn control(&mut self, word: &str, tokens: Vec<Token>) -> Result<Node, String> {
        let in_range = usize::from(word == "range");
        let condition = pipe(&tokens, 1 + in_range)?;
        self.ranges += in_range;
        let (then, end) = self.block()?;
        self.ranges -= in_range;
        let otherwise = match end {
            None => return Err(format!("{{{{{word}}}}} is not closed by {{{{end}}}}")),
            Some(None) => vec![],
            Some(Some(rest)) => match rest.first() {
                None => match self.block()? {
                    (nodes, Some(None)) => nodes,
                    _ => return Err("{{else}} is not closed by {{end}}".into()),
                },
                Some(Token::Word(next)) if next == word && word != "range" => {
                    self.depth += 1;
                    if self.depth > DEPTH {
                        return Err("nested too deeply".into());
                    }
                    let node = self.control(word, trimmed(rest[1..].to_vec()))?;
                    self.depth -= 1;
                    vec![node]
                }
                Some(_) => return Err("unexpected word after else".into()),
            },
        };
        Ok(match word {
            "if" => Node::If(condition, then, otherwise),
            "with" => Node::With(condition, then, otherwise),
            _ => Node::Range { over: condition, body: then, none: otherwise },
        })
    }
}

/// The name behind `define`, `block` or `template`, and what follows it.
fn named(word: &str, tokens: &[Token]) -> Result<(String, Vec<Token>), String> {
    let rest = trimmed(tokens[1..].to_vec());
    match rest.first() {
        Some(Token::Constant(Data::Text(name))) => Ok((name.to_string(), trimmed(rest[1..].to_vec()))),
        _ => Err(format!("a quoted name is expected behind {word}")),
    }
}

fn trimmed(mut tokens: Vec<Token>) -> Vec<Token> {
    while tokens.last() == Some(&Token::Sign(' ')) {
        tokens.pop();
    }
    let begin = tokens.iter().position(|token| *token != Token::Sign(' ')).unwrap_or(tokens.len());
    tokens.split_off(begin)
}

/// A pipeline that sets so many variables at most.
fn pipe(tokens: &[Token], most: usize) -> Result<Pipe, String> {
    let assign = tokens.iter().enumerate().find_map(|(at, token)| match token {
        Token::Assign { declares } => Some((at, *declares)),
        _ => None,
    });
    let (names, declares, tokens) = match assign {
        Some((at, declares)) => (names(&tokens[..at], most)?, declares, &tokens[at + 1..]),
        None => (vec![], false, tokens),
    };
    let mut at = 0;
    let calls = calls(tokens, &mut at, 0)?;
    if at == tokens.len() { Ok(Pipe { names, declares, calls }) } else { Err("unexpected )".into()) }
}

/// The variables before `:=` or `=`.
fn names(tokens: &[Token], most: usize) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut more = true;
    for token in tokens {
        match token {
            Token::Sign(' ') => {}
            Token::Variable(name) if more && !name.is_empty() => {
                names.push(name.clone());
                more = false;
            }
            Token::Sign(',') if !more => more = true,
            _ => return Err("only a variable can be assigned to".into()),
        }
    }
    if more || names.len() > most { Err("wrong number of variables".into()) } else { Ok(names) }
}

/// Whether a term is docker's `.Label`, which takes a key.
fn is_label(term: &Term) -> bool {
    matches!(term, Term::Dot(path) if path.last().is_some_and(|name| name == "Label"))
}

/// Commands up to the end or an unmatched `)`.
fn calls(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Vec<Call>, String> {
    if depth > DEPTH {
        return Err("nested too deeply".into());
    }
    let mut calls = Vec::new();
    let mut call = Call { function: None, arguments: Vec::new() };
    let finish = |call: Call| match &call {
        Call { function: None, arguments } if arguments.is_empty() => Err("missing value for command".to_owned()),
        // Docker's `.Label "key"` is one that can.
        Call { function: None, arguments } if arguments.len() > 1 && !is_label(&arguments[0]) => {
            Err("a value cannot have arguments".to_owned())
        }
        _ => Ok(call),
    };
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        match token {
            Token::Sign(' ') => {}
            Token::Sign('|') => {
                calls.push(finish(std::mem::replace(&mut call, Call { function: None, arguments: Vec::new() }))?);
            }
            Token::Sign(')') if depth > 0 => {
                *at -= 1;
                break;
            }
            Token::Sign('(') => {
                let inner = self::calls(tokens, at, depth + 1)?;
                if tokens.get(*at) != Some(&Token::Sign(')')) {
                    return Err("unclosed (".into());
                }
                *at += 1;
                call.arguments.push(Term::Inner(inner, fields(tokens, at)));
            }
            Token::Word(name) if call.function.is_none() && call.arguments.is_empty() => {
                call.function = Some(name.clone());
            }
            Token::Word(name) => {
                call.arguments.push(Term::Inner(vec![Call { function: Some(name.clone()), arguments: vec![] }], vec![]))
            }
            Token::Field(name) => {
                let mut path: Vec<String> = Some(name.clone()).into_iter().filter(|name| !name.is_empty()).collect();
                path.extend(fields(tokens, at));
                call.arguments.push(Term::Dot(path));
            }
            Token::Variable(name) => call.arguments.push(Term::Variable(name.clone(), fields(tokens, at))),
            Token::Constant(value) => call.arguments.push(Term::Constant(value.clone())),
            Token::Sign(sign) => return Err(format!("unexpected {sign:?}")),
            Token::Assign { .. } => return Err("unexpected assignment".into()),
        }
    }
    calls.push(finish(call)?);
    Ok(calls)
}

/// Fields that follow without a space.
fn fields(tokens: &[Token], at: &mut usize) -> Vec<String> {
    let mut fields = Vec::new();
    while let Some(Token::Field(name)) = tokens.get(*at) {
        *at += 1;
        fields.push(name.clone());
    }
    fields
}
