//! From text to selectors: Calico's grammar (`libcalico-go/lib/selector`), read once from left to right.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::Selector;

/// The longest selector in bytes.
pub const MAX_LENGTH: usize = 64 << 10;
/// How deep parentheses may go.
const MAX_DEPTH: usize = 64;
/// The longest label.
const MAX_LABEL: usize = 512;

/// What is wrong with a selector, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("at character {at} of the selector: {reason}")]
pub struct SelectorError {
    /// The character at which it is seen, counted from 1.
    pub at: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Reason {
    /// Something else should stand here.
    #[error("{0} is expected here")]
    Expected(&'static str),
    /// A text without its second quote.
    #[error("this quote is not closed")]
    Open,
    /// A label that is too long.
    #[error("this label is longer than 512 characters")]
    Label,
    /// Too many parentheses in each other.
    #[error("parentheses go deeper than 64 here")]
    Depth,
    /// Too much text.
    #[error("the selector is longer than 64 KiB")]
    Length,
}

pub(crate) fn selector(text: &str) -> Result<Selector, SelectorError> {
    let mut reader = Reader { text, at: 0 };
    if text.len() > MAX_LENGTH {
        return Err(reader.error(Reason::Length));
    }
    if reader.rest().is_empty() {
        return Ok(Selector::All);
    }
    let selector = reader.any(0)?;
    if reader.rest().is_empty() { Ok(selector) } else { Err(reader.expected("&& or || or the end")) }
}

struct Reader<'a> {
    text: &'a str,
    /// The byte that is read next.
    at: usize,
}

impl<'a> Reader<'a> {
    /// What is left, behind blanks.
    fn rest(&mut self) -> &'a str {
        let left = self.text.get(self.at..).unwrap_or_default();
        let rest = left.trim_start_matches([' ', '\t']);
        self.at += left.len() - rest.len();
        rest
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.rest().starts_with(word);
        self.at += if there { word.len() } else { 0 };
        there
    }

    fn error(&self, reason: Reason) -> SelectorError {
        let before = self.text.get(..self.at).unwrap_or_default();
        SelectorError { at: before.chars().count() + 1, reason }
    }

    fn expected(&mut self, what: &'static str) -> SelectorError {
        self.rest();
        self.error(Reason::Expected(what))
    }

    fn any(&mut self, depth: usize) -> Result<Selector, SelectorError> {
        let mut parts = vec![self.all(depth)?];
        while self.take("||") {
            parts.push(self.all(depth)?);
        }
        Ok(single(parts, Selector::Or))
    }

    fn all(&mut self, depth: usize) -> Result<Selector, SelectorError> {
        let mut parts = vec![self.one(depth)?];
        while self.take("&&") {
            parts.push(self.one(depth)?);
        }
        Ok(single(parts, Selector::And))
    }

    /// Two negations are none.
    fn one(&mut self, depth: usize) -> Result<Selector, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let inner = self.condition(depth)?;
        Ok(match (negated, inner) {
            (false, inner) => inner,
            (true, Selector::Not(inner)) => *inner,
            (true, inner) => Selector::Not(Box::new(inner)),
        })
    }

    fn condition(&mut self, depth: usize) -> Result<Selector, SelectorError> {
        if depth >= MAX_DEPTH {
            self.rest();
            return Err(self.error(Reason::Depth));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            return self.closed(inner);
        }
        for (word, selector) in [("all(", Selector::All), ("global(", Selector::Global)] {
            if self.take(word) {
                return self.closed(selector);
            }
        }
        if self.take("has(") {
            let label = self.label()?;
            return self.closed(Selector::Has(label));
        }
        let label = self.label()?;
        self.about(label)
    }

    fn closed(&mut self, inner: Selector) -> Result<Selector, SelectorError> {
        if self.take(")") { Ok(inner) } else { Err(self.expected("a closing parenthesis")) }
    }

    /// What is said of a label. Words mean something only here, so a label may be called like one.
    fn about(&mut self, label: String) -> Result<Selector, SelectorError> {
        if self.take("==") {
            return Ok(Selector::Is(label, self.string()?));
        }
        if self.take("!=") {
            return Ok(Selector::IsNot(label, self.string()?));
        }
        if self.take("contains") {
            return Ok(Selector::Contains(label, self.string()?));
        }
        if self.take_words("starts", "with") {
            return Ok(Selector::StartsWith(label, self.string()?));
        }
        if self.take_words("ends", "with") {
            return Ok(Selector::EndsWith(label, self.string()?));
        }
        if self.take_words("not", "in") {
            return Ok(Selector::NotIn(label, self.set()?));
        }
        if self.take("in") {
            return Ok(Selector::In(label, self.set()?));
        }
        Err(self.expected("==, !=, in, not in, contains, starts with or ends with"))
    }

    /// Both words, with or without blanks between; else neither.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let before = self.at;
        let there = self.take(first) && self.take(second);
        if !there {
            self.at = before;
        }
        there
    }

    fn label(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        match rest.get(..end) {
            None | Some("") => Err(self.expected("a label, has(), all(), ! or a parenthesis")),
            Some(label) if label.len() > MAX_LABEL => Err(self.error(Reason::Label)),
            Some(label) => {
                self.at += end;
                Ok(label.to_owned())
            }
        }
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        self.quoted()?.ok_or_else(|| self.expected("a text in quotes"))
    }

    /// None if no text begins here. There are no escapes.
    fn quoted(&mut self) -> Result<Option<String>, SelectorError> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Ok(None) };
        let inner = rest.get(1..).unwrap_or_default();
        let Some((text, _)) = inner.split_once(quote) else { return Err(self.error(Reason::Open)) };
        self.at += text.len() + 2;
        Ok(Some(text.to_owned()))
    }

    /// A comma may stand behind the last as well.
    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.take("{") {
            return Err(self.expected("a set in braces"));
        }
        let mut values = BTreeSet::new();
        while let Some(value) = self.quoted()? {
            values.insert(value);
            if !self.take(",") {
                break;
            }
        }
        if self.take("}") { Ok(values) } else { Err(self.expected("a text in quotes or a closing brace")) }
    }
}

/// What is joined with nothing stands for itself.
fn single(mut parts: Vec<Selector>, join: fn(Vec<Selector>) -> Selector) -> Selector {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            parts.extend(last);
            join(parts)
        }
    }
}
