//! What a policy picks endpoints by: a condition on labels, in Calico's grammar and its canonical form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::parse::{self, SelectorError};

/// A condition on the labels of an endpoint.
///
/// It is read from Calico's grammar (`libcalico-go/lib/selector`); `Display` writes the canonical form, which two
/// selectors share only if they mean the same: sets sorted and without repeats, parentheses around all that is joined,
/// double quotes unless the text holds one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// Every endpoint.
    All,
    /// Nothing but what is of no namespace; only namespace selectors say so.
    Global,
    /// The label is there.
    Has(String),
    /// It is there with this value.
    Is(String, String),
    /// It is absent, or has another value.
    IsNot(String, String),
    /// It has one of these values.
    In(String, BTreeSet<String>),
    /// It is absent, or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// Its value holds this text.
    Contains(String, String),
    /// Its value begins with this text.
    StartsWith(String, String),
    /// Its value ends with this text.
    EndsWith(String, String),
    /// The condition does not hold.
    Not(Box<Selector>),
    /// All of them hold.
    And(Vec<Selector>),
    /// One of them holds.
    Or(Vec<Selector>),
}

/// Something with labels.
pub trait Labels {
    /// The value of a label; None if it is absent.
    fn label(&self, name: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Selector {
    /// Whether these labels are what it asks for.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let holds = |label: &str, holds: &dyn Fn(&str) -> bool| labels.label(label).is_some_and(holds);
        match self {
            Selector::All => true,
            Selector::Global => false,
            Selector::Has(label) => labels.label(label).is_some(),
            Selector::Is(label, value) => holds(label, &|found| found == value),
            Selector::IsNot(label, value) => !holds(label, &|found| found == value),
            Selector::In(label, values) => holds(label, &|found| values.contains(found)),
            Selector::NotIn(label, values) => !holds(label, &|found| values.contains(found)),
            Selector::Contains(label, part) => holds(label, &|found| found.contains(part)),
            Selector::StartsWith(label, part) => holds(label, &|found| found.starts_with(part)),
            Selector::EndsWith(label, part) => holds(label, &|found| found.ends_with(part)),
            Selector::Not(inner) => !inner.matches(labels),
            Selector::And(all) => all.iter().all(|one| one.matches(labels)),
            Selector::Or(any) => any.iter().any(|one| one.matches(labels)),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    /// Nothing selects everything.
    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        parse::selector(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::All => f.write_str("all()"),
            Selector::Global => f.write_str("global()"),
            Selector::Has(label) => write!(f, "has({label})"),
            Selector::Is(label, value) => write!(f, "{label} == {}", Quoted(value)),
            Selector::IsNot(label, value) => write!(f, "{label} != {}", Quoted(value)),
            Selector::In(label, values) => write!(f, "{label} in {}", Set(values)),
            Selector::NotIn(label, values) => write!(f, "{label} not in {}", Set(values)),
            Selector::Contains(label, part) => write!(f, "{label} contains {}", Quoted(part)),
            Selector::StartsWith(label, part) => write!(f, "{label} starts with {}", Quoted(part)),
            Selector::EndsWith(label, part) => write!(f, "{label} ends with {}", Quoted(part)),
            Selector::Not(inner) => write!(f, "!{inner}"),
            Selector::And(all) => joined(f, all, " && "),
            Selector::Or(any) => joined(f, any, " || "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Selector], by: &str) -> fmt::Result {
    f.write_str("(")?;
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            f.write_str(by)?;
        }
        write!(f, "{part}")?;
    }
    f.write_str(")")
}

/// There are no escapes: a text holds one kind of quotes at most.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a BTreeSet<String>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (number, value) in self.0.iter().enumerate() {
            write!(f, "{}{}", if number > 0 { ", " } else { "" }, Quoted(value))?;
        }
        f.write_str("}")
    }
}
