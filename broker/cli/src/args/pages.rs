//! What pages of the documentation tell people to type is a command line of this binary.

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use super::Arguments;

/// A command of a page.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    /// Its words, beginning with `tidemark`.
    words: Vec<String>,
    /// Named in a sentence, where it may leave out what it is done to.
    in_passing: bool,
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test reads the repository's pages"
)]
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs", "docs/runbooks"] {
        let files = std::fs::read_dir(root.join(folder)).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    pages
}

/// The words of a line as a shell takes them, command by command; what stands in `$(…)` is commands
/// of its own.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut line = line.to_owned();
    while let Some(from) = line.find("$(") {
        let Some(length) = line[from..].find(')') else {
            break;
        };
        found.extend(commands(&line[from + 2..from + length]));
        line.replace_range(from..=from + length, "$INNER");
    }
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quoted, c) {
            (Some(quote), c) if c == quote => quoted = None,
            (None, '\'' | '"') => {
                quoted = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '|' | ';' | '&') => {
                words.extend(word.take());
                found.push(std::mem::take(&mut words));
            }
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    found.push(words);
    found
}

/// The command of these words, if it is one of this binary.
fn ours(mut words: Vec<String>) -> Option<Vec<String>> {
    if words.first().is_some_and(|word| word == "do") {
        words.remove(0);
    }
    if let Some(at) = words.iter().position(|word| word == ">" || word == "<") {
        words.truncate(at);
    }
    let begins =
        |with: &[&str]| words.len() > with.len() && words.iter().zip(with).all(|(a, b)| a == b);
    if begins(&["kubectl", "tidemark"]) {
        words.splice(0..2, ["tidemark".to_owned(), "kube".to_owned()]);
        return Some(words);
    }
    begins(&["tidemark"]).then_some(words)
}

fn typed(text: &str) -> Vec<Typed> {
    let mut found = Vec::new();
    let mut block = None;
    let mut line = String::new();
    for part in text.lines() {
        if let Some(kind) = part.strip_prefix("```") {
            block = match block {
                None => Some(kind == "console"),
                Some(_) => None,
            };
            continue;
        }
        let (commands, in_passing) = match block {
            Some(false) => continue,
            Some(true) => {
                let goes_on = line.ends_with('\\');
                let Some(part) = part.strip_prefix("$ ").or(goes_on.then_some(part)) else {
                    continue;
                };
                line = format!(
                    "{}{part}",
                    line.strip_suffix('\\')
                        .filter(|_| goes_on)
                        .unwrap_or_default()
                );
                if line.ends_with('\\') {
                    continue;
                }
                (commands(&line), false)
            }
            // Every other piece between backticks is code.
            None => (
                part.split('`')
                    .skip(1)
                    .step_by(2)
                    .flat_map(commands)
                    .collect(),
                true,
            ),
        };
        found.extend(
            commands
                .into_iter()
                .filter_map(ours)
                .map(|words| Typed { words, in_passing }),
        );
    }
    found
}

/// Whether the reader is to fill something in.
fn leaves_open(words: &[String]) -> bool {
    words.iter().any(|word| {
        let capital = |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase());
        word.contains(['$', '…']) || word.split(|c: char| !c.is_ascii_alphabetic()).any(capital)
    })
}

/// What is wrong with it, if anything.
fn wrong(typed: &Typed) -> Option<String> {
    let error = Arguments::try_parse_from(&typed.words).err()?;
    let well = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::MissingRequiredArgument => typed.in_passing,
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => leaves_open(&typed.words),
        _ => false,
    };
    (!well).then(|| error.to_string())
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a test reads the repository's pages"
)]
fn what_pages_say_can_be_typed_is_understood() {
    let mut all = 0;
    let mut bad = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for typed in typed(&text) {
            all += 1;
            bad.extend(
                wrong(&typed)
                    .map(|why| format!("{}: {}\n{why}", page.display(), typed.words.join(" "))),
            );
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(all > 150, "only {all} commands were found");
}

#[test]
fn what_nobody_understands_is_found() {
    let judge =
        |text: &str| -> Vec<bool> { typed(text).iter().map(|one| wrong(one).is_none()).collect() };
    assert_eq!(
        judge(
            "```console\n$ seq 9 | tidemark produce a \\\n    -q > /dev/null\nshown\n$ tidemark topic lst\n```\n"
        ),
        [true, false]
    );
    assert_eq!(
        judge(
            "Type `tidemark group describe`, `kubectl tidemark plan`, `tidemark topic list --al` or `tidemark crate`."
        ),
        [true, true, false, false]
    );
    assert_eq!(
        judge(
            "```console\n$ tidemark group describe\n$ X=$(tidemark format --random-uuid)\n$ for n in 1; do tidemark broker --config $n.yaml & done\n```"
        ),
        [false, true, true]
    );
    assert_eq!(
        judge(
            "```console\n$ tidemark format --config x --cluster-id ID\n$ tidemark format --config x --cluster-id x # ID\n```"
        ),
        [true, false]
    );
}
