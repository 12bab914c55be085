//! nftables over netlink: tables, chains and rules of the family `ip`, as linux/netfilter/nf_tables.h lays them out.

use std::io;
use std::net::Ipv4Addr;

use super::netlink::{Attributes, Message, Socket, WithAttributes, as_text, attribute, attributes, flags};

const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const FAMILY_IPV4: u8 = 2;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
/// The type of a comment in a rule's user data, and where iptables keeps one: in a match of its own.
const COMMENT: u8 = 0;
const COMMENT_MATCH_BYTES: usize = 256;

/// Registers of 16 bytes; 0 holds the verdict.
const VERDICT: u32 = 0;
const R1: u32 = 1;
const R2: u32 = 2;

/// Where packets pass a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What comes in, before routing.
    Prerouting,
    /// What passes through.
    Forward,
    /// What this host sends.
    Output,
    /// What goes out, after routing.
    Postrouting,
}

/// What a rule does in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes this chain's hook.
    Accept,
    /// The packet is gone.
    Drop,
}

/// One expression of a rule: its kernel name and its attributes.
#[derive(Debug, Clone)]
pub struct Expression(&'static str, Attributes);

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(DATA_VALUE, bytes)
}

fn meta(key: u32) -> Expression {
    Expression("meta", Attributes::new().number_be(2, key).number_be(1, R1))
}

fn compare(equal: bool, bytes: &[u8]) -> Expression {
    Expression("cmp", Attributes::new().number_be(1, R1).number_be(2, u32::from(!equal)).nested(3, value(bytes)))
}

fn payload(base: u32, offset: u32, length: u32) -> Expression {
    let place = Attributes::new().number_be(1, R1).number_be(2, base);
    Expression("payload", place.number_be(3, offset).number_be(4, length))
}

fn and(mask: &[u8]) -> Expression {
    let registers = Attributes::new().number_be(1, R1).number_be(2, R1).number_be(3, mask.len() as u32);
    Expression("bitwise", registers.nested(4, value(mask)).nested(5, value(&vec![0; mask.len()])))
}

fn load(register: u32, bytes: &[u8]) -> Expression {
    Expression("immediate", Attributes::new().number_be(1, register).nested(2, value(bytes)))
}

/// A rule in the making: what it looks at, in order, and what it does.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    expressions: Vec<Expression>,
    comment: Option<String>,
}

impl Rule {
    /// A rule for every packet.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.expressions.extend(expressions);
        self
    }

    fn link(self, key: u32, name: &str, equal: bool, whole: bool) -> Self {
        // Compared with its final NUL, a name is that name and not the beginning of one; so iptables encodes it.
        let mut bytes = name.as_bytes().to_vec();
        bytes.extend(whole.then_some(0));
        self.with([meta(key), compare(equal, &bytes)])
    }

    /// Packets that came in by the link.
    pub fn from_link(self, name: &str) -> Self {
        self.link(6, name, true, true)
    }

    /// Packets that came in by a link whose name begins so.
    pub fn from_links(self, prefix: &str) -> Self {
        self.link(6, prefix, true, false)
    }

    /// Packets that leave by the link.
    pub fn to_link(self, name: &str) -> Self {
        self.link(7, name, true, true)
    }

    /// Packets that leave by a link whose name begins so.
    pub fn to_links(self, prefix: &str) -> Self {
        self.link(7, prefix, true, false)
    }

    /// Packets that leave by any other link.
    pub fn not_to_link(self, name: &str) -> Self {
        self.link(7, name, false, true)
    }

    fn address(self, offset: u32, base: Ipv4Addr, prefix: u8, equal: bool) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        let masked = (prefix < 32).then(|| and(&mask.to_be_bytes()));
        self.with([payload(1, offset, 4)]).with(masked).with([compare(equal, &base.octets())])
    }

    /// Packets from the subnet.
    pub fn from_subnet(self, base: Ipv4Addr, prefix: u8) -> Self {
        self.address(12, base, prefix, true)
    }

    /// Packets to the subnet.
    pub fn to_subnet(self, base: Ipv4Addr, prefix: u8) -> Self {
        self.address(16, base, prefix, true)
    }

    /// Packets to anywhere else.
    pub fn not_to_subnet(self, base: Ipv4Addr, prefix: u8) -> Self {
        self.address(16, base, prefix, false)
    }

    /// Packets to an address of this host's.
    pub fn to_local(self) -> Self {
        const ADDRTYPE: u32 = 3;
        const DADDR: u32 = 2;
        const LOCAL: u32 = 2;
        let lookup = Attributes::new().number_be(1, R1).number_be(2, ADDRTYPE).number_be(3, DADDR);
        self.with([Expression("fib", lookup), compare(true, &LOCAL.to_ne_bytes())])
    }

    /// Packets of a transport protocol to a port.
    pub fn to_port(self, protocol: u8, port: u16) -> Self {
        self.with([meta(16), compare(true, &[protocol]), payload(2, 2, 2), compare(true, &port.to_be_bytes())])
    }

    fn tracked(self, key: u32, bits: u32) -> Self {
        let tracking = Expression("ct", Attributes::new().number_be(2, key).number_be(1, R1));
        self.with([tracking, and(&bits.to_ne_bytes()), compare(false, &[0; 4])])
    }

    /// Packets of connections that are known, or belong to one that is.
    pub fn established(self) -> Self {
        const ESTABLISHED: u32 = 2;
        const RELATED: u32 = 4;
        self.tracked(0, ESTABLISHED | RELATED)
    }

    /// Packets of connections whose destination was rewritten.
    pub fn redirected(self) -> Self {
        const DESTINATION_NAT: u32 = 0x20;
        self.tracked(2, DESTINATION_NAT)
    }

    /// Counts packets and bytes, as every rule of iptables does.
    pub fn counted(self) -> Self {
        self.with([Expression("counter", Attributes::new().bytes(1, &[0; 8]).bytes(2, &[0; 8]))])
    }

    /// A comment as nft keeps it: beside the rule.
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }

    /// A comment as iptables keeps it: as a match that is always true.
    pub fn iptables_comment(self, text: &str) -> Self {
        let mut info = text.as_bytes().to_vec();
        info.truncate(COMMENT_MATCH_BYTES - 1);
        info.resize(COMMENT_MATCH_BYTES, 0);
        let attributes = Attributes::new().text(1, "comment").number_be(2, 0).bytes(3, &info);
        self.with([Expression("match", attributes)])
    }

    /// Ends the rule with a verdict.
    pub fn verdict(self, verdict: Verdict) -> Self {
        let code = Attributes::new().number_be(VERDICT_CODE, u32::from(verdict == Verdict::Accept));
        let data = Attributes::new().nested(DATA_VERDICT, code);
        self.with([Expression("immediate", Attributes::new().number_be(1, VERDICT).nested(2, data))])
    }

    /// Ends the rule with a new destination for the connection.
    pub fn redirect(self, address: Ipv4Addr, port: u16) -> Self {
        const DESTINATION: u32 = 1;
        let nat = Attributes::new().number_be(1, DESTINATION).number_be(2, u32::from(FAMILY_IPV4));
        let nat = nat.number_be(3, R1).number_be(4, R1).number_be(5, R2).number_be(6, R2);
        self.with([load(R1, &address.octets()), load(R2, &port.to_be_bytes()), Expression("nat", nat)])
    }

    /// Ends the rule with the sender's address replaced by the host's.
    pub fn masquerade(self) -> Self {
        self.with([Expression("masq", Attributes::new())])
    }

    fn encode(&self, table: &str, chain: &str, flags: u16) -> Message {
        let mut list = Attributes::new();
        for Expression(name, data) in &self.expressions {
            let expression = Attributes::new().text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, data.clone());
            list = list.nested(LIST_ELEMENT, expression);
        }
        let mut message = message(NEWRULE, flags).text(RULE_TABLE, table).text(RULE_CHAIN, chain);
        message = message.nested(RULE_EXPRESSIONS, list);
        if let Some(comment) = &self.comment {
            // Type, length with the NUL, text, NUL. nft allows 128 bytes.
            let text: Vec<u8> = comment.bytes().take(126).collect();
            let record = [&[COMMENT, text.len() as u8 + 1], text.as_slice(), &[0]].concat();
            message = message.bytes(RULE_USERDATA, &record);
        }
        message
    }
}

/// A rule as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its chain.
    pub chain: String,
    /// By which it is removed.
    pub handle: u64,
    /// Its comment, of either kind.
    pub comment: Option<String>,
}

/// A chain as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChain {
    /// Its name.
    pub name: String,
    /// Whether what reaches its end is dropped.
    pub drops: bool,
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &[FAMILY_IPV4, 0, 0, 0])
}

/// Changes that are made all together or not at all.
#[derive(Debug, Default)]
pub struct Changes(Vec<Message>);

impl Changes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes a table, unless it is there.
    pub fn table(&mut self, name: &str) {
        self.0.push(message(NEWTABLE, flags::CREATE).text(TABLE_NAME, name));
    }

    /// Removes a table and all in it.
    pub fn remove_table(&mut self, name: &str) {
        self.0.push(message(DELTABLE, 0).text(TABLE_NAME, name));
    }

    /// Makes a chain that packets pass at a hook, unless it is there. `kind` is `nat` or `filter`; it accepts what
    /// reaches its end.
    pub fn chain(&mut self, table: &str, name: &str, kind: &str, hook: Hook, priority: i32) {
        // enum nf_inet_hooks
        let number = match hook {
            Hook::Prerouting => 0,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        let hook = Attributes::new().number_be(HOOK_NUMBER, number).number_be(HOOK_PRIORITY, priority as u32);
        let chain = message(NEWCHAIN, flags::CREATE).text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
        self.0.push(chain.nested(CHAIN_HOOK, hook).number_be(CHAIN_POLICY, 1).text(CHAIN_TYPE, kind));
    }

    /// Adds a rule at a chain's end.
    pub fn append(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.0.push(rule.encode(table, chain, flags::CREATE | flags::APPEND));
    }

    /// Adds a rule at a chain's beginning.
    pub fn insert(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.0.push(rule.encode(table, chain, flags::CREATE));
    }

    /// Removes one rule.
    pub fn remove_rule(&mut self, table: &str, rule: &Found) {
        let message = message(DELRULE, 0).text(RULE_TABLE, table).text(RULE_CHAIN, &rule.chain);
        self.0.push(message.bytes(RULE_HANDLE, &rule.handle.to_be_bytes()));
    }
}

/// The nftables of one network namespace.
#[derive(Debug)]
pub struct Nftables(Socket);

impl Nftables {
    /// Of this thread's namespace.
    pub fn open() -> io::Result<Self> {
        Socket::netfilter().map(Self)
    }

    /// Makes the changes, all or none.
    pub fn commit(&mut self, changes: &Changes) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let frame = |kind| Message::new(kind, 0, &[0, 0, (SUBSYSTEM >> 8) as u8, SUBSYSTEM as u8]);
        let mut messages = vec![frame(BATCH_BEGIN)];
        messages.extend(changes.0.iter().cloned());
        messages.push(frame(BATCH_END));
        self.0.batch(&messages)
    }

    /// The rules of a table; none when there is no such table.
    pub fn rules(&mut self, table: &str) -> io::Result<Vec<Found>> {
        let replies = match self.0.dump(&message(GETRULE, 0).text(RULE_TABLE, table)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        // Kernels before 4.16 do not filter.
        let of_table = |attrs: &[u8]| attribute(attrs, RULE_TABLE).is_some_and(|name| as_text(name) == table);
        let bodies = replies.iter().filter_map(|reply| reply.body.get(4..)).filter(|attrs| of_table(attrs));
        Ok(bodies.filter_map(found).collect())
    }

    /// The chains of a table; none when there is no such table.
    pub fn chains(&mut self, table: &str) -> io::Result<Vec<FoundChain>> {
        let replies = self.0.dump(&message(GETCHAIN, 0))?;
        let chain = |attrs: &[u8]| {
            let policy = attribute(attrs, CHAIN_POLICY);
            (as_text(attribute(attrs, CHAIN_TABLE)?) == table)
                .then_some(FoundChain { name: as_text(attribute(attrs, CHAIN_NAME)?), drops: policy == Some(&[0; 4]) })
        };
        Ok(replies.iter().filter_map(|reply| chain(reply.body.get(4..)?)).collect())
    }
}

fn found(attrs: &[u8]) -> Option<Found> {
    let handle = u64::from_be_bytes(attribute(attrs, RULE_HANDLE)?.try_into().ok()?);
    let beside = attribute(attrs, RULE_USERDATA).and_then(|data| match data {
        [COMMENT, length, text @ ..] => text.get(..usize::from(*length)).map(as_text),
        _ => None,
    });
    let expressions = attribute(attrs, RULE_EXPRESSIONS).unwrap_or_default();
    let comment = |(_, expression)| {
        let data = attribute(expression, EXPRESSION_DATA)?;
        let name = |attrs, kind| attribute(attrs, kind).map(as_text);
        let is_comment = name(expression, EXPRESSION_NAME)? == "match" && name(data, 1)? == "comment";
        is_comment.then(|| name(data, 3)).flatten()
    };
    let inside = attributes(expressions).find_map(comment);
    Some(Found { chain: as_text(attribute(attrs, RULE_CHAIN)?), handle, comment: beside.or(inside) })
}
