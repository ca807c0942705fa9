//! Laws of the files: where unsafe code may stand, how long a file may be, what must not be written down.

use super::code::{code_only, line_of, words};
use super::workspace::{Breach, File, Law, Workspace};

/// Every law of this file.
pub(crate) const LAWS: &[Law] = &[
    unsafe_code_stands_in_sys,
    unsafe_blocks_say_why_they_are_safe,
    crates_take_the_lints_of_the_workspace,
    files_fit_the_head,
    nothing_goes_by_the_wall_clock,
    nothing_is_left_to_do,
    private_notes_are_not_named,
    decisions_are_numbered_without_gap,
];

const LONGEST: usize = 600;
/// Where the time of day is taken, to be shown to people.
const WALL_CLOCK: &str = "apps/tartand/src/ring.rs";
const SAFETY: &str = "// SAFETY:";
/// How far above its block the reason may begin, in lines.
const SAFETY_REACH: usize = 3;

// Written in two parts, so that this file keeps its own laws.
const LEFTOVER_WORDS: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
const LEFTOVER_MACROS: [&str; 2] = ["todo", "unimplemented"];
const PRIVATE: [&str; 3] =
    [concat!("shared/", "design"), concat!("shared/", "facts"), concat!(".lib", "rary")];

fn unsafe_code_stands_in_sys(workspace: &Workspace) -> Vec<Breach> {
    let elsewhere = rust(workspace).filter(|file| !is_sys(&file.path));
    let in_file = |file: &File| {
        let code = code_only(&file.text);
        let lines: Vec<usize> = words(&code, "unsafe").map(|place| line_of(&code, place)).collect();
        at_lines(file, lines, "unsafe code", "unsafe only in io/*/src/sys.rs")
    };
    elsewhere.flat_map(in_file).collect()
}

fn unsafe_blocks_say_why_they_are_safe(workspace: &Workspace) -> Vec<Breach> {
    let in_file = |file: &File| {
        let unexplained =
            unsafe_blocks(&file.text).into_iter().filter(|&line| !is_explained(&file.text, line));
        at_lines(file, unexplained, "unsafe block without its reason", "// SAFETY: above each unsafe block")
    };
    rust(workspace).flat_map(in_file).collect()
}

fn crates_take_the_lints_of_the_workspace(workspace: &Workspace) -> Vec<Breach> {
    let manifests = workspace.files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let bare = manifests.filter(|file| !takes_lints(&file.text));
    bare.map(|file| breach(&file.path, "has no `[lints] workspace = true`", "one set of lints")).collect()
}

fn files_fit_the_head(workspace: &Workspace) -> Vec<Breach> {
    let long = |file: &File| {
        let lines = file.text.lines().count();
        (lines > LONGEST).then(|| {
            breach(&file.path, &format!("has {lines} lines, at most {LONGEST}"), "files fit the head")
        })
    };
    rust(workspace).filter_map(long).collect()
}

fn nothing_goes_by_the_wall_clock(workspace: &Workspace) -> Vec<Breach> {
    let product = |file: &&File| {
        let floor = ["core/", "io/", "apps/"].iter().any(|floor| file.path.starts_with(floor));
        floor && file.path.contains("/src/") && file.path != WALL_CLOCK
    };
    let in_file = |file: &File| {
        let code = code_only(&file.text);
        let clocks = ["SystemTime", "CLOCK_REALTIME"];
        let lines: Vec<usize> =
            clocks.iter().flat_map(|clock| words(&code, clock)).map(|place| line_of(&code, place)).collect();
        at_lines(file, lines, "the wall clock, which people set", "nothing goes by the wall clock")
    };
    rust(workspace).filter(product).flat_map(in_file).collect()
}

fn nothing_is_left_to_do(workspace: &Workspace) -> Vec<Breach> {
    let in_file =
        |file: &File| at_lines(file, leftovers(&file.text), "something left to do", "nothing half done");
    rust(workspace).flat_map(in_file).collect()
}

fn private_notes_are_not_named(workspace: &Workspace) -> Vec<Breach> {
    let in_file = |file: &File| {
        let named =
            file.text.lines().enumerate().filter(|(_, line)| PRIVATE.iter().any(|word| line.contains(word)));
        at_lines(file, named.map(|(before, _)| before + 1), "names private notes", "the project stands alone")
    };
    workspace.files.iter().flat_map(in_file).collect()
}

fn decisions_are_numbered_without_gap(workspace: &Workspace) -> Vec<Breach> {
    const LAW: &str = "decisions are numbered without gap";
    let inside = |file: &File| file.path.strip_prefix("docs/decisions/").map(str::to_owned);
    let mut names: Vec<String> = workspace.files.iter().filter_map(inside).collect();
    names.sort();
    let wrong = (1..).zip(&names).find(|(expected, name)| number_of(name) != Some(*expected));
    wrong
        .map(|(expected, name)| {
            breach(
                &format!("docs/decisions/{name}"),
                &format!("should be called {expected:04}-TITLE.md"),
                LAW,
            )
        })
        .into_iter()
        .collect()
}

fn rust(workspace: &Workspace) -> impl Iterator<Item = &File> {
    workspace.files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// `io/ROOM/src/sys.rs` and no other.
fn is_sys(path: &str) -> bool {
    let room = path.strip_prefix("io/").and_then(|path| path.strip_suffix("/src/sys.rs"));
    room.is_some_and(|room| !room.contains('/'))
}

/// Lines on which a block begins; functions, traits and attributes state their contract instead.
fn unsafe_blocks(text: &str) -> Vec<usize> {
    let code = code_only(text);
    let opens =
        |&place: &usize| code.split_at(place).1.trim_start_matches("unsafe").trim_start().starts_with('{');
    words(&code, "unsafe").filter(opens).map(|place| line_of(&code, place)).collect()
}

fn is_explained(text: &str, line: usize) -> bool {
    let above = line.saturating_sub(1);
    let near = text.lines().take(above).skip(above.saturating_sub(SAFETY_REACH));
    near.into_iter().any(|line| line.contains(SAFETY))
}

/// A section of two lines needs no TOML parser; cargo itself refuses what is malformed.
fn takes_lints(manifest: &str) -> bool {
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[lints]" && line.replace(' ', "") == "workspace=true" {
            return true;
        }
    }
    false
}

fn leftovers(text: &str) -> Vec<usize> {
    let code = code_only(text);
    let in_text = LEFTOVER_WORDS.iter().flat_map(|word| words(text, word).map(|place| line_of(text, place)));
    let in_code = LEFTOVER_MACROS.iter().flat_map(|name| macros(&code, name));
    in_text.chain(in_code).collect()
}

fn macros(code: &str, name: &'static str) -> Vec<usize> {
    let called = |&place: &usize| code.split_at(place).1.trim_start_matches(name).starts_with('!');
    words(code, name).filter(called).map(|place| line_of(code, place)).collect()
}

/// The number of `NNNN-title.md`.
fn number_of(name: &str) -> Option<u32> {
    let (number, title) = name.strip_suffix(".md")?.split_once('-')?;
    (number.len() == 4 && !title.is_empty()).then(|| number.parse().ok()).flatten()
}

fn at_lines(
    file: &File,
    lines: impl IntoIterator<Item = usize>,
    what: &str,
    law: &'static str,
) -> Vec<Breach> {
    lines.into_iter().map(|line| breach(&format!("{}:{line}", file.path), what, law)).collect()
}

fn breach(path: &str, what: &str, law: &'static str) -> Breach {
    Breach { path: path.to_owned(), what: what.to_owned(), law }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(law: Law, files: &[(&str, &str)]) -> Vec<String> {
        law(&Workspace::of_files(files)).into_iter().map(|breach| breach.path).collect()
    }

    #[test]
    fn good_files_break_no_law() {
        let workspace = Workspace::of_files(&[
            ("io/kernel/src/sys.rs", "// SAFETY: the pointer lives\nlet x = unsafe { f(p) };\n"),
            (
                "core/model/src/lib.rs",
                "// unsafe is denied\nconst S: &str = \"unsafe {\";\n#![deny(unsafe_code)]\n",
            ),
            ("core/model/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"),
            ("Cargo.toml", "[workspace]\n"),
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0002-b.md", ""),
        ]);
        assert_eq!(super::super::breaches(&workspace), []);
    }

    #[test]
    fn unsafe_code_elsewhere_is_told() {
        let code = "fn f() {\n    unsafe { g() }\n}\n";
        let files = [
            ("core/model/src/lib.rs", code),
            ("io/kernel/src/sys.rs", code),
            ("io/kernel/src/deep/src/sys.rs", code),
            ("io/kernel/tests/sys.rs", "unsafe impl Send for X {}"),
            ("core/model/src/sys.rs", code),
        ];
        assert_eq!(
            paths(unsafe_code_stands_in_sys, &files),
            [
                "core/model/src/lib.rs:2",
                "io/kernel/src/deep/src/sys.rs:2",
                "io/kernel/tests/sys.rs:1",
                "core/model/src/sys.rs:2"
            ]
        );
    }

    #[test]
    fn an_unexplained_block_is_told() {
        let far = "// SAFETY: too far\n\n\n\nunsafe {\n}\n";
        let near = "// SAFETY: near\n//\n//\nunsafe {\n}\nunsafe fn f();\n";
        let after = "let x = unsafe\n{ f() }; // SAFETY: too late\n";
        let files = [("io/a/src/sys.rs", far), ("io/b/src/sys.rs", near), ("io/c/src/sys.rs", after)];
        assert_eq!(
            paths(unsafe_blocks_say_why_they_are_safe, &files),
            ["io/a/src/sys.rs:5", "io/c/src/sys.rs:1"]
        );
    }

    #[test]
    fn a_crate_with_its_own_lints_is_told() {
        let own = "[dependencies]\nworkspace = true\n[lints.rust]\nunsafe_code = \"allow\"\n";
        assert_eq!(
            paths(crates_take_the_lints_of_the_workspace, &[("io/a/Cargo.toml", own)]),
            ["io/a/Cargo.toml"]
        );
    }

    #[test]
    fn a_long_file_is_told() {
        let files = [("a.rs", "\n".repeat(601)), ("b.rs", "\n".repeat(600)), ("c.md", "\n".repeat(601))];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        assert_eq!(paths(files_fit_the_head, &files), ["a.rs"]);
    }

    #[test]
    fn the_wall_clock_elsewhere_is_told() {
        let code = "// SystemTime\nlet now = SystemTime::now();\n";
        let files = [WALL_CLOCK, "apps/x/src/a.rs", "core/x/src/a.rs", "io/x/tests/a.rs", "lab/x/src/a.rs"]
            .map(|path| (path, code));
        assert_eq!(paths(nothing_goes_by_the_wall_clock, &files), ["apps/x/src/a.rs:2", "core/x/src/a.rs:2"]);
    }

    #[test]
    fn something_left_to_do_is_told() {
        let words: Vec<String> =
            LEFTOVER_WORDS.iter().map(|word| format!("fn f() {{}}\n// {word}: finish\n")).collect();
        let macros: Vec<String> =
            LEFTOVER_MACROS.iter().map(|name| format!("fn f() {{\n {name}!()\n}}")).collect();
        for text in words.iter().chain(&macros) {
            assert_eq!(paths(nothing_is_left_to_do, &[("a.rs", text)]), ["a.rs:2"], "{text}");
        }
        assert!(
            paths(nothing_is_left_to_do, &[("a.rs", "let todo = \"todo!\"; // todo!"), ("b.md", &words[0])])
                .is_empty()
        );
    }

    #[test]
    fn private_notes_in_any_file_are_told() {
        for word in PRIVATE {
            let text = format!("a\nsee /x/{word}/y\n");
            assert_eq!(
                paths(private_notes_are_not_named, &[("docs/a.md", &text)]),
                ["docs/a.md:2"],
                "{word}"
            );
        }
    }

    #[test]
    fn a_gap_a_twin_and_a_nameless_decision_are_told() {
        let law = decisions_are_numbered_without_gap;
        let (one, two, twin) =
            ("docs/decisions/0001-a.md", "docs/decisions/0002-b.md", "docs/decisions/0002-c.md");
        assert_eq!(paths(law, &[(two, ""), (twin, "")]), [two]);
        assert_eq!(paths(law, &[(one, ""), (two, ""), (twin, "")]), [twin]);
        assert_eq!(paths(law, &[(one, ""), ("docs/decisions/notes.md", "")]), ["docs/decisions/notes.md"]);
    }
}
