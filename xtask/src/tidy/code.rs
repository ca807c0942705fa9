//! Rust source with its comments and literals blanked, so that a word is code and nothing else.

/// The same text, line by line as long, with spaces for comments, strings and characters.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = silent_prefix(rest);
        let (taken, after) = rest.split_at(skipped.unwrap_or(first.len_utf8()));
        match skipped {
            Some(_) => code.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            None => code.push_str(taken),
        }
        rest = after;
    }
    code
}

/// Byte places of `word` in `text` where it stands alone, not as a part of a longer name.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(place, _)| place).filter(move |&place| {
        let (before, from) = text.split_at(place);
        let after = from.strip_prefix(word).unwrap_or(from);
        !before.ends_with(is_name) && !after.starts_with(is_name)
    })
}

/// The line of a byte place, counted from 1.
pub(crate) fn line_of(text: &str, place: usize) -> usize {
    text.bytes().take(place).filter(|&byte| byte == b'\n').count() + 1
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of the comment or literal that `rest` begins with.
fn silent_prefix(rest: &str) -> Option<usize> {
    line_comment(rest)
        .or_else(|| block_comment(rest))
        .or_else(|| raw_string(rest))
        .or_else(|| string(rest))
        .or_else(|| character(rest))
}

fn line_comment(rest: &str) -> Option<usize> {
    rest.starts_with("//").then(|| rest.find('\n').unwrap_or(rest.len()))
}

/// Block comments nest; an open one reaches to the end.
fn block_comment(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix("/*")?;
    let mut depth = 1_u32;
    let mut bytes = inner.bytes().enumerate().peekable();
    while let Some((place, byte)) = bytes.next() {
        match (byte, bytes.peek().map(|&(_, next)| next)) {
            (b'/', Some(b'*')) => depth += 1,
            (b'*', Some(b'/')) => depth -= 1,
            _ => continue,
        }
        bytes.next();
        if depth == 0 {
            return Some(2 + place + 2);
        }
    }
    Some(rest.len())
}

/// `r"…"`, `r#"…"#`; the `b` or `c` before it stays as code.
fn raw_string(rest: &str) -> Option<usize> {
    let after_r = rest.strip_prefix('r')?;
    let body = after_r.trim_start_matches('#');
    let hashes = after_r.len() - body.len();
    let inner = body.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opened = 1 + hashes + 1;
    Some(inner.find(&end).map_or(rest.len(), |place| opened + place + end.len()))
}

fn string(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('"')?;
    let mut bytes = inner.bytes().enumerate();
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return Some(place + 2),
            _ => {}
        }
    }
    Some(rest.len())
}

/// `'x'` and `'\n'`, but no lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut inner = rest.strip_prefix('\'')?.chars();
    let first = inner.next()?;
    if first != '\\' {
        return inner.as_str().starts_with('\'').then_some(1 + first.len_utf8() + 1);
    }
    let escaped = inner.next()?;
    let end = inner.as_str().find('\'')?;
    Some(2 + escaped.len_utf8() + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("x(\"\\\"b\") y", "x(     ) y"),
            ("x(r#\"b\"c\"#) y", "x(        ) y"),
            ("r#fn 'a: '\\'' '\"' b", "r#fn 'a:          b"),
            ("'\\u{7f}' b", "         b"),
            ("\"open", "     "),
            ("/* open", "       "),
        ] {
            assert_eq!(code_only(text), code, "{text}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\n*/ c\n\"d\ne\" f";
        let code = code_only(text);
        assert_eq!(code.lines().count(), text.lines().count());
        assert_eq!(line_of(&code, code.find('f').unwrap()), 5);
    }

    #[test]
    fn a_word_stands_alone() {
        assert_eq!(words("let letter = let_; let", "let").collect::<Vec<_>>(), [0, 19]);
    }
}
