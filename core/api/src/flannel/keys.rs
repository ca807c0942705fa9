//! The keys of a JSON object, as Go reads them: in any case, the last of several, null as if absent; and where they stand.

use serde_json::{Map, Value};

use super::{FlannelError, Word, kind_of};

/// An object's keys; those that were asked for are taken out.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    text: &'a str,
    /// Where the object begins in the text.
    from: usize,
    /// What stands before each key, as in `Backend.`.
    within: bool,
    values: Map<String, Value>,
    /// Where each key stood that was taken.
    taken: Vec<(&'static str, usize)>,
}

impl<'a> Keys<'a> {
    /// The object that a text is.
    pub(super) fn read(text: &'a str) -> Result<Keys<'a>, FlannelError> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let said = error.to_string();
            let reason = said.split(" at line ").next().unwrap_or_default().to_string();
            FlannelError::Text { at: (error.line().max(1), error.column().max(1)), reason }
        })?;
        match value {
            Value::Object(values) => Ok(Keys { text, from: 0, within: false, values, taken: Vec::new() }),
            other => {
                let reason =
                    format!("expected an object with flannel's keys, and there is {}", kind_of(&other));
                Err(FlannelError::Text { at: (1, 1), reason })
            }
        }
    }

    /// Takes the object under a key.
    pub(super) fn object(&mut self, key: &'static str) -> Result<Option<Keys<'a>>, FlannelError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(values)) => {
                let from = self.place(key).unwrap_or(0);
                Ok(Some(Keys { text: self.text, from, within: true, values, taken: Vec::new() }))
            }
            Some(other) => {
                Err(self.wrong(key, format!("expected an object, and there is {}", kind_of(&other))))
            }
        }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, FlannelError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, format!("expected a text, and there is {}", kind_of(&other)))),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, FlannelError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => {
                Err(self.wrong(key, format!("expected true or false, and there is {}", kind_of(&other))))
            }
        }
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<u64>, FlannelError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_u64() => Ok(number.as_u64()),
            Some(other) => {
                let there = if other.is_number() { "another" } else { kind_of(&other) };
                Err(self.wrong(key, format!("expected a whole number, not negative, and there is {there}")))
            }
        }
    }

    /// Whether a key is there; it is taken.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.take(key).is_some()
    }

    /// Says something about a key.
    pub(super) fn word(&self, words: &mut Vec<Word>, key: &'static str, says: impl Into<String>) {
        words.push(Word {
            key: self.full(key),
            at: self.place(key).map(|at| self.position(at)),
            says: says.into(),
        });
    }

    /// Says of every key that was not asked for that nobody knows it.
    pub(super) fn unknown(&self, words: &mut Vec<Word>) {
        for (key, _) in self.values.iter().filter(|(_, value)| !value.is_null()) {
            let at = find(self.text.get(self.from..).unwrap_or_default(), key)
                .map(|at| self.position(self.from + at));
            let shown: String = key.chars().take(40).collect();
            let says = format!("{shown:?} is no key that flannel knows; left out");
            words.push(Word { key: if self.within { "Backend" } else { "key" }, at, says });
        }
    }

    /// The error that something is wrong with a key's value.
    pub(super) fn wrong(&self, key: &'static str, reason: impl ToString) -> FlannelError {
        FlannelError::Text { at: self.at(key), reason: format!("{}: {}", self.full(key), reason.to_string()) }
    }

    /// Line and column of a key, from 1.
    pub(super) fn at(&self, key: &'static str) -> (usize, usize) {
        self.place(key).map_or((1, 1), |at| self.position(at))
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        let names = self.values.keys().filter(|name| name.eq_ignore_ascii_case(key)).cloned();
        let mut found = None;
        for name in names.collect::<Vec<_>>() {
            if let Some(at) = find(self.text.get(self.from..).unwrap_or_default(), &name) {
                self.taken.push((key, self.from + at));
            }
            found = self.values.remove(&name).filter(|value| !value.is_null()).or(found);
        }
        found
    }

    fn place(&self, key: &'static str) -> Option<usize> {
        self.taken.iter().rev().find(|(taken, _)| *taken == key).map(|(_, at)| *at)
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        (line, before.chars().rev().take_while(|c| *c != '\n').count() + 1)
    }

    fn full(&self, key: &'static str) -> &'static str {
        const WITHIN: [(&str, &str); 11] = [
            ("Type", "Backend.Type"),
            ("VNI", "Backend.VNI"),
            ("Port", "Backend.Port"),
            ("GBP", "Backend.GBP"),
            ("DirectRouting", "Backend.DirectRouting"),
            ("Learning", "Backend.Learning"),
            ("MTU", "Backend.MTU"),
            ("MacPrefix", "Backend.MacPrefix"),
            ("Name", "Backend.Name"),
            ("PSK", "Backend.PSK"),
            ("ListenPort", "Backend.ListenPort"),
        ];
        let known = WITHIN.iter().find(|(name, _)| self.within && *name == key);
        known.map_or(key, |(_, full)| full)
    }
}

/// Where a key stands: its name in quotes, then a colon.
fn find(text: &str, key: &str) -> Option<usize> {
    let quoted = serde_json::to_string(key).ok()?;
    let mut from = 0;
    while let Some(at) = text.get(from..)?.find(&quoted) {
        let end = from + at + quoted.len();
        if text.get(end..)?.trim_start().starts_with(':') {
            return Some(from + at);
        }
        from = end;
    }
    None
}
