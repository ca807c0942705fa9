//! Selectors as people write them: their canonical form, or what is wrong with them and where.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use tartan_policy::{MAX_LENGTH, Selector};

#[test]
fn the_canonical_form() {
    let cases = [
        ("", "all()"),
        (" \t ", "all()"),
        ("all()", "all()"),
        ("all( )", "all()"),
        ("global()", "global()"),
        ("a=='b'", "a == \"b\""),
        ("a == 'say \"b\"'", "a == 'say \"b\"'"),
        ("a != \"it's\"", "a != \"it's\""),
        ("a in {'c','b',\"b\"}", "a in {\"b\", \"c\"}"),
        ("a in {'c',}", "a in {\"c\"}"),
        ("a in {}", "a in {}"),
        ("a notin {'b'}", "a not in {\"b\"}"),
        ("a not in {'b'}", "a not in {\"b\"}"),
        ("a startswith 'b'", "a starts with \"b\""),
        ("a ends  with 'b'", "a ends with \"b\""),
        ("contains contains \"contains\"", "contains contains \"contains\""),
        ("has == 'x' && in in {'in'}", "(has == \"x\" && in in {\"in\"})"),
        ("not not in {'x'}", "not not in {\"x\"}"),
        ("all == 'x'", "all == \"x\""),
        ("has( a )", "has(a)"),
        ("9lives == '9'", "9lives == \"9\""),
        ("projectcalico.org/name == 'x'", "projectcalico.org/name == \"x\""),
        ("!has(a)", "!has(a)"),
        ("!!has(a)", "has(a)"),
        ("!!!has(a)", "!has(a)"),
        ("!(!has(a))", "has(a)"),
        ("has(a) && has(b) || has(c)", "((has(a) && has(b)) || has(c))"),
        ("has(a) || has(b) && has(c)", "(has(a) || (has(b) && has(c)))"),
        ("(((has(a))))", "has(a)"),
        ("!(has(a) && has(b))", "!(has(a) && has(b))"),
    ];
    for (text, canonical) in cases {
        assert_eq!(
            text.parse::<Selector>().map(|selector| selector.to_string()),
            Ok(canonical.into()),
            "{text}"
        );
    }
}

#[test]
fn what_is_wrong_and_where() {
    let cases = [
        (
            "a",
            "at character 2 of the selector: ==, !=, in, not in, contains, starts with or ends with is expected here",
        ),
        (
            "a = 'b'",
            "at character 3 of the selector: ==, !=, in, not in, contains, starts with or ends with is expected here",
        ),
        ("a == b", "at character 6 of the selector: a text in quotes is expected here"),
        ("a == 'b", "at character 6 of the selector: this quote is not closed"),
        (
            "ü == 'b'",
            "at character 1 of the selector: a label, has(), all(), ! or a parenthesis is expected here",
        ),
        ("a == 'ü' b", "at character 10 of the selector: && or || or the end is expected here"),
        ("a in 'b'", "at character 6 of the selector: a set in braces is expected here"),
        (
            "a in {'b' 'c'}",
            "at character 11 of the selector: a text in quotes or a closing brace is expected here",
        ),
        ("a in {,}", "at character 7 of the selector: a text in quotes or a closing brace is expected here"),
        ("has(a", "at character 6 of the selector: a closing parenthesis is expected here"),
        ("(has(a)", "at character 8 of the selector: a closing parenthesis is expected here"),
        ("has(a))", "at character 7 of the selector: && or || or the end is expected here"),
        (
            "has(a) &&",
            "at character 10 of the selector: a label, has(), all(), ! or a parenthesis is expected here",
        ),
        ("has(a) & has(b)", "at character 8 of the selector: && or || or the end is expected here"),
        (
            "a starts 'b'",
            "at character 3 of the selector: ==, !=, in, not in, contains, starts with or ends with is expected here",
        ),
        ("has(a)\n", "at character 7 of the selector: && or || or the end is expected here"),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), error, "{text}");
    }
}

#[test]
fn limits() {
    let error = |text: String| text.parse::<Selector>().unwrap_err().to_string();
    let nested = |depth| "(".repeat(depth) + "has(a)" + &")".repeat(depth);
    assert!(nested(63).parse::<Selector>().is_ok());
    assert_eq!(error(nested(64)), "at character 65 of the selector: parentheses go deeper than 64 here");
    let label = |length| "a".repeat(length) + " == 'b'";
    assert!(label(512).parse::<Selector>().is_ok());
    assert_eq!(error(label(513)), "at character 1 of the selector: this label is longer than 512 characters");
    assert_eq!(
        error(" ".repeat(MAX_LENGTH + 1)),
        "at character 1 of the selector: the selector is longer than 64 KiB"
    );
    assert!(format!("{}has(a)", "!".repeat(1001)).parse::<Selector>().is_ok());
}
