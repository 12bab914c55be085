//! Templates: from text to nodes.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

/// How deep blocks and parentheses may be nested.
const DEPTH: usize = 100;

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    /// As it stands.
    Text(String),
    /// The value of a pipeline.
    Print(Pipe),
    /// `{{$x := …}}`
    Set(String, Pipe),
    /// `{{if}}`: then, else.
    If(Pipe, Vec<Node>, Vec<Node>),
    /// `{{with}}`: the same, with the value as the dot.
    With(Pipe, Vec<Node>, Vec<Node>),
    /// `{{range}}`: for each, for none.
    Range {
        /// The names of key and value.
        key: Option<String>,
        /// The same.
        value: Option<String>,
        /// Over what.
        over: Pipe,
        /// For each.
        body: Vec<Node>,
        /// For none.
        none: Vec<Node>,
    },
}

/// Commands, each of which gets the value of the one before as its last argument.
pub type Pipe = Vec<Call>;

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
    Constant(Value),
    /// In parentheses, and fields of it.
    Inner(Pipe, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Field(String),
    Variable(String),
    Constant(Value),
    Sign(char),
    Assign,
}

/// Parses a template.
pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { pieces: pieces(text)?.into_iter().peekable(), depth: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(nodes),
        Some(_) => Err("unexpected {{end}} or {{else}}".into()),
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Splits at `{{` and `}}`; `{{-` and `-}}` take the space beside them.
fn pieces(mut text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    while let Some(open) = text.find("{{") {
        let before = &text[..open];
        let rest = &text[open + 2..];
        let trim_before = rest.starts_with("- ");
        let rest = if trim_before { &rest[1..] } else { rest };
        let before = if trim_before { before.trim_end() } else { before };
        pieces.push(Piece::Text(before.to_owned()));
        if let Some(comment) = rest.trim_start().strip_prefix("/*") {
            let end = comment.find("*/").ok_or("unclosed comment")?;
            let after = comment[end + 2..].trim_start();
            let (after, trim) = match after.strip_prefix("-}}") {
                Some(after) => (after, true),
                None => (after.strip_prefix("}}").ok_or("a comment must be all of an action")?, false),
            };
            text = if trim { after.trim_start() } else { after };
            continue;
        }
        let (tokens, after, trim_after) = tokens(rest)?;
        pieces.push(Piece::Action(tokens));
        text = if trim_after { after.trim_start() } else { after };
    }
    pieces.push(Piece::Text(text.to_owned()));
    Ok(pieces)
}

/// The tokens up to `}}`, what follows it, and whether space there is to be taken.
fn tokens(text: &str) -> Result<(Vec<Token>, &str, bool), String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    let word =
        |at: usize| -> usize { rest(at).find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest(at).len()) };
    loop {
        let here = rest(at);
        let Some(first) = here.chars().next() else { return Err("unclosed action".into()) };
        if here.starts_with("}}") {
            return Ok((tokens, rest(at + 2), false));
        }
        if here.starts_with("-}}") {
            return Ok((tokens, rest(at + 3), true));
        }
        at += first.len_utf8();
        match first {
            c if c.is_whitespace() => tokens.push(Token::Sign(' ')),
            '|' | '(' | ')' | ',' => tokens.push(Token::Sign(first)),
            ':' if rest(at).starts_with('=') => {
                at += 1;
                tokens.push(Token::Assign);
            }
            '.' => {
                let length = word(at);
                tokens.push(Token::Field(rest(at)[..length].to_owned()));
                at += length;
            }
            '$' => {
                let length = word(at);
                tokens.push(Token::Variable(rest(at)[..length].to_owned()));
                at += length;
            }
            '"' => {
                let mut stream = serde_json::Deserializer::from_str(&text[at - 1..]).into_iter::<String>();
                let string = stream.next().and_then(Result::ok).ok_or("a string is not closed or not valid")?;
                at = at - 1 + stream.byte_offset();
                tokens.push(Token::Constant(Value::String(string)));
            }
            '`' => {
                let end = rest(at).find('`').ok_or("unclosed raw string")?;
                tokens.push(Token::Constant(Value::from(&rest(at)[..end])));
                at += end + 1;
            }
            c if c.is_ascii_digit() || c == '-' => {
                let digits = rest(at).find(|c: char| !c.is_ascii_digit()).unwrap_or(rest(at).len());
                let number = text[at - 1..at + digits].parse::<i64>().map_err(|_| "bad number")?;
                tokens.push(Token::Constant(Value::from(number)));
                at += digits;
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = word(at);
                let name = &text[at - c.len_utf8()..at + length];
                tokens.push(match name {
                    "true" => Token::Constant(Value::Bool(true)),
                    "false" => Token::Constant(Value::Bool(false)),
                    "nil" => Token::Constant(Value::Null),
                    name => Token::Word(name.to_owned()),
                });
                at += length;
            }
            other => return Err(format!("unexpected {other:?} in action")),
        }
    }
}

/// What ended a block: `end`, or `else` and the tokens after it.
type End = Option<Option<Vec<Token>>>;

struct Parser {
    pieces: Peekable<IntoIter<Piece>>,
    depth: usize,
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
                _ => nodes.push(action(&tokens)?),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn control(&mut self, word: &str, tokens: Vec<Token>) -> Result<Node, String> {
        let (names, tokens) = if word == "range" { range_names(&tokens)? } else { (vec![], tokens.as_slice()) };
        let condition = pipe(tokens)?;
        let (then, end) = self.block()?;
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
            _ => {
                let mut names = names.into_iter().rev();
                let value = names.next();
                Node::Range { key: names.next(), value, over: condition, body: then, none: otherwise }
            }
        })
    }
}

/// The names before `:=` of a range, and the rest.
fn range_names(tokens: &[Token]) -> Result<(Vec<String>, &[Token]), String> {
    let Some(assign) = tokens.iter().position(|token| *token == Token::Assign) else { return Ok((vec![], tokens)) };
    let mut names = Vec::new();
    for token in &tokens[..assign] {
        match token {
            Token::Variable(name) if !name.is_empty() => names.push(name.clone()),
            Token::Sign(' ' | ',') => {}
            _ => return Err("a range assigns to variables only".into()),
        }
    }
    if names.is_empty() || names.len() > 2 {
        return Err("a range has one or two variables".into());
    }
    Ok((names, &tokens[assign + 1..]))
}

fn action(tokens: &[Token]) -> Result<Node, String> {
    if let Some(assign) = tokens.iter().position(|token| *token == Token::Assign) {
        return match &trimmed(tokens[..assign].to_vec())[..] {
            [Token::Variable(name)] if !name.is_empty() => Ok(Node::Set(name.clone(), pipe(&tokens[assign + 1..])?)),
            _ => Err("only a variable can be assigned to".into()),
        };
    }
    pipe(tokens).map(Node::Print)
}

fn trimmed(mut tokens: Vec<Token>) -> Vec<Token> {
    while tokens.last() == Some(&Token::Sign(' ')) {
        tokens.pop();
    }
    let begin = tokens.iter().position(|token| *token != Token::Sign(' ')).unwrap_or(tokens.len());
    tokens.split_off(begin)
}

fn pipe(tokens: &[Token]) -> Result<Pipe, String> {
    let mut at = 0;
    let calls = calls(tokens, &mut at, 0)?;
    if at == tokens.len() { Ok(calls) } else { Err("unexpected )".into()) }
}

/// Whether a term is docker's `.Label`, which takes a key.
fn is_label(term: &Term) -> bool {
    matches!(term, Term::Dot(path) if path.last().is_some_and(|name| name == "Label"))
}

/// Commands up to the end or an unmatched `)`.
fn calls(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipe, String> {
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
            Token::Assign => return Err("unexpected :=".into()),
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
