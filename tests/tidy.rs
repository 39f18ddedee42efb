//! The architecture as checks, so that nobody has to remember it. Each rule is data with its reason, and each message
//! says what to do instead. Clippy checks Rust; this checks the house: who may name whom, how a file begins, where unsafe
//! code explains itself, whether the documents' links lead somewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Under `under`, except in `except`, no path (`name::…` or `…::name`) goes through one of `names`. Tests at a file's end may.
struct Unnamed {
    under: &'static [&'static str],
    except: &'static [&'static str],
    names: &'static [&'static str],
    why: &'static str,
}

const UNNAMED: &[Unnamed] = &[
    Unnamed {
        under: &["src/task", "src/topology", "src/dsl", "src/operators"],
        except: &[],
        names: &["rdkafka", "tokio", "thread", "Instant", "SystemTime"],
        why: "what a record does must be the same in production, in the test driver and in the simulator: \
              return an effect and let `runtime` act on it; time comes from `Clock`",
    },
    Unnamed {
        under: &["src", "state"],
        except: &["src/serve"],
        names: &["hyper", "hyper_util", "http_body_util", "matchit"],
        why: "HTTP is an edge that a program may leave out (feature `http`): put it into src/serve",
    },
    Unnamed {
        under: &["src", "state", "topologies"],
        except: &["src/log/kafka"],
        names: &["rdkafka"],
        why: "the engine knows a log, not Kafka: add what is missing to the trait `Log` and call librdkafka in src/log/kafka",
    },
    Unnamed {
        under: &["src", "topologies"],
        except: &["src/log/embedded"],
        names: &["rocksdb"],
        why: "the state is reached through millstream-state and the embedded log through `Log`: RocksDB is a detail of those two",
    },
    Unnamed {
        under: &["src", "state", "topologies", "benches"],
        except: &["src/codec/bincode.rs", "src/codec/mod.rs"], // mod.rs names our module of that name
        names: &["bincode"],
        why: "bincode is frozen and will be replaced, in one file: use the codec",
    },
    Unnamed {
        under: &["src", "state", "topologies", "benches", "tests"],
        except: &["src/clock.rs"],
        names: &["SystemTime"],
        why: "time comes from `Clock`, so that tests decide what time it is",
    },
    Unnamed {
        under: &["state"],
        except: &[],
        names: &["millstream", "tokio"],
        why: "arrows go topologies -> millstream -> millstream-state: stores know bytes, not streams, and block",
    },
];

/// `from` does not use `crate::to`.
struct Arrow {
    from: &'static [&'static str],
    to: &'static [&'static str],
    why: &'static str,
}

const ARROWS: &[Arrow] = &[
    Arrow {
        from: &["src/task", "src/topology"],
        to: &["dsl", "operators", "runtime", "serve", "testing"],
        why: "dsl -> operators -> task: what is below does not know what is built on it",
    },
    Arrow {
        from: &["src/dsl", "src/operators"],
        to: &["log", "runtime", "serve", "testing"],
        why: "a topology is described without knowing where and how it will run",
    },
    Arrow {
        from: &["src/operators"],
        to: &["dsl"],
        why: "dsl -> operators: an operator works on records, the typed handles are built over it",
    },
    Arrow {
        from: &["src/log"],
        to: &["dsl", "operators", "task", "topology", "runtime", "serve", "testing"],
        why: "the log knows topics, records and transactions: who writes them is the runtime's business",
    },
    Arrow {
        from: &["src/runtime"],
        to: &["serve", "testing"],
        why: "serve -> runtime: an application runs without anybody asking it over HTTP",
    },
    Arrow {
        from: &["src/serve"],
        to: &["dsl", "operators", "task", "testing"],
        why: "serve -> runtime: whatever HTTP shows, any program can have through `Handle`",
    },
];

const MAX_LINES: usize = 600;

/// Directories with Rust code of ours.
const ROOTS: &[&str] = &["src", "state", "topologies", "benches", "tests"];

/// Every complaint about one file.
fn complaints(path: &str, source: &str) -> Vec<String> {
    let Masked { code, comments } = mask(source);
    let mut found = Vec::new();
    let mut complain = |line: usize, message: String| found.push(format!("{path}:{line}: {message}"));

    if !source.starts_with("//!") {
        complain(1, "does not begin with `//!`: say what the file is for and what never happens here".into());
    }
    if source.lines().count() > MAX_LINES {
        complain(MAX_LINES, format!("more than {MAX_LINES} lines are two concepts: make it two files"));
    }
    let end = code.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX);
    for (at, line) in code.lines().enumerate().take(end) {
        for rule in UNNAMED.iter().filter(|r| within(path, r.under) && !within(path, r.except)) {
            for name in rule.names.iter().filter(|name| names(line, name)) {
                complain(at + 1, format!("names `{name}`: {}", rule.why));
            }
        }
    }
    for (at, module) in crate_paths(&code) {
        for rule in ARROWS.iter().filter(|r| within(path, r.from) && r.to.contains(&module.as_str())) {
            complain(at, format!("uses `crate::{module}`: {}", rule.why));
        }
    }
    for (at, line) in code.lines().enumerate() {
        if words(line).any(|(_, word, after)| ["todo", "unimplemented"].contains(&word) && after.starts_with('!')) {
            complain(at + 1, "a stub: finish it, or leave the feature out and say so".into());
        }
        if words(line).any(|(_, word, _)| word == "unsafe") {
            let near = comments.lines().take(at + 1).skip(at.saturating_sub(8));
            if !near.into_iter().any(|c| c.contains("SAFETY:") || c.contains("# Safety")) {
                complain(at + 1, "unsafe code without a `// SAFETY:` comment: say why it is sound".into());
            }
        }
    }
    for (at, line) in comments.lines().enumerate() {
        if words(line).any(|(_, word, _)| ["FIXME", "TODO", "XXX", "HACK"].contains(&word)) {
            complain(at + 1, "a note to self: do it, or describe the limit in the file's `//!`".into());
        }
    }
    found
}

/// A source file twice, line by line: once with only its code (strings emptied), once with only its comments.
struct Masked {
    code: String,
    comments: String,
}

fn mask(source: &str) -> Masked {
    let mut masked = Masked { code: String::new(), comments: String::new() };
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let (taken, is_comment, is_text) = match next {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), true, false),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), true, false),
            '"' => (string_end(rest), false, true),
            'r' if !masked.code.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '\'') => match raw_string_end(rest) {
                Some(end) => (end, false, true),
                None => (1, false, false),
            },
            '\'' => (char_end(rest).unwrap_or(1), false, true),
            _ => (next.len_utf8(), false, false),
        };
        let (text, after) = rest.split_at(taken);
        let newlines: String = text.chars().filter(|c| *c == '\n').collect();
        masked.code.push_str(if is_text || is_comment { &newlines } else { text });
        masked.comments.push_str(if is_comment { text } else { &newlines });
        rest = after;
    }
    masked
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_end(rest: &str) -> Option<usize> {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    let close = format!("\"{}", "#".repeat(hashes));
    let body = rest[1 + hashes..].strip_prefix('"')?;
    Some(2 + hashes + body.find(&close).map_or(body.len(), |end| end + close.len()))
}

/// The end of a character literal; a lifetime is none.
fn char_end(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (at, _) = chars.skip(1).find(|(_, c)| *c == '\'')?;
        return Some(at + 1);
    }
    chars.next().and_then(|(at, c)| (c == '\'').then_some(at + 1))
}

/// The identifiers of a line, each with what stands before and after it.
fn words(line: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + line[at..].find(is_word)?;
        let end = line[start..].find(|c| !is_word(c)).map_or(line.len(), |len| start + len);
        at = end;
        Some((&line[..start], &line[start..end], &line[end..]))
    })
}

fn names(line: &str, name: &str) -> bool {
    words(line).any(|(before, word, after)| word == name && (before.ends_with("::") || after.starts_with("::")))
}

/// The modules named as `crate::module` or within `crate::{…}`, with their lines.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let first = |text: &str| words(text).next().map(|(_, word, _)| word.to_owned());
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(first(rest).map(|module| (line, module)));
            continue;
        };
        let mut depth = 0;
        let parts = group.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0 || (c == ',' && depth == 0)
        });
        let end = group.find(';').unwrap_or(group.len());
        let inside = parts.take_while(|part| part.as_ptr() < group[end..].as_ptr());
        found.extend(inside.filter_map(first).map(|module| (line, module)));
    }
    found
}

fn within(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Every link and every path in backticks of a document leads to something.
fn dead_links(root: &Path, path: &str, text: &str) -> Vec<String> {
    let here = root.join(path);
    let here = here.parent().expect("a file has a directory");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.starts_with("mailto:"));
    let linked = local.map(|t| (t, here.join(t.split('#').next().unwrap_or(t))));
    let is_path = |s: &&str| s.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let quoted = text.split('`').skip(1).step_by(2).filter(is_path);
    let quoted = quoted.filter(|s| ROOTS.iter().any(|r| s.strip_prefix(r).is_some_and(|rest| rest.starts_with('/'))));
    let all = linked.chain(quoted.map(|s| (s, root.join(s))));
    all.filter(|(_, file)| !file.exists())
        .map(|(target, _)| format!("{path}: `{target}` leads nowhere: correct it, or add what it promises"))
        .collect()
}

/// The licences of `expression` are acceptable when one of its alternatives only asks for allowed ones. (`/` is an old `OR`.)
fn licence_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    let ored_in_brackets = expression.starts_with('(');
    let terms = |text: &str, by: &str| text.split(by).map(|t| t.trim_matches(['(', ')', ' ']).to_owned()).collect::<Vec<_>>();
    let ok = |term: &String| allowed.contains(term);
    if ored_in_brackets || !expression.contains('(') && !expression.contains(" OR ") {
        terms(&expression, " AND ").iter().all(|part| terms(part, " OR ").iter().any(ok))
    } else {
        terms(&expression, " OR ").iter().any(|part| terms(part, " AND ").iter().all(ok))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("a readable directory").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn all_files(dirs: &[&str], extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for dir in dirs {
        files(&root().join(dir), extension, &mut found);
    }
    found.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root()).expect("found below the root").display().to_string();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a readable file"))).collect()
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_house_is_tidy() {
    let sources = all_files(ROOTS, "rs");
    assert!(sources.len() > 5, "found only {} source files", sources.len());
    none(sources.iter().flat_map(|(path, source)| complaints(path, source)).collect());
}

#[test]
fn documents_lead_somewhere() {
    let documents = all_files(&["."], "md");
    none(documents.iter().flat_map(|(path, text)| dead_links(&root(), path.trim_start_matches("./"), text)).collect());
}

#[test]
fn crates_depend_one_way() {
    let manifest = |path: &str| fs::read_to_string(root().join(path)).expect("a manifest");
    let depends =
        |text: &str, on: &str| text.lines().any(|l| l.strip_prefix(on).is_some_and(|rest| rest.starts_with(['.', ' ', '='])));
    let state = manifest("state/Cargo.toml");
    for above in ["millstream", "millstream-shop", "tokio", "serde"] {
        assert!(!depends(&state, above), "state/Cargo.toml depends on {above}: stores know bytes only");
    }
    let library = manifest("Cargo.toml");
    let (workspace, package) = library.split_once("\n[package]").expect("a workspace, then the library's package");
    assert!(depends(workspace, "millstream-state"));
    for above in ["millstream-shop", "clap", "jsonwebtoken"] {
        assert!(!depends(package, above), "the library depends on {above}: that is the shop's");
    }
}

#[test]
fn licences_are_permissive() {
    let output = |program: &str, args: &[&str]| {
        let run = Command::new(program).args(args).current_dir(root()).output().expect("cargo and rustc run here");
        assert!(run.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("utf-8")
    };
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let version = output("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc tells its host");
    // Offline: what this host builds is already here, and a test that asks the network is red for others' reasons.
    let tree = output(&cargo, &["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", host]);
    let tree: serde_json::Value = serde_json::from_str(&tree).expect("cargo prints JSON");

    let policy = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let list = policy.split("[licenses]").nth(1).and_then(|t| t.split("allow = [").nth(1)).and_then(|t| t.split(']').next());
    let entries = list.expect("deny.toml lists the allowed licences").lines().filter_map(|line| line.trim().strip_prefix('"'));
    let allowed: Vec<String> = entries.filter_map(|entry| entry.split('"').next().map(str::to_owned)).collect();

    let packages = tree["packages"].as_array().expect("packages");
    assert!(packages.len() > 20, "only {} packages", packages.len());
    let refused = packages.iter().filter(|p| !licence_allowed(p["license"].as_str().unwrap_or("none"), &allowed));
    none(refused.map(|p| format!("{} is under {}: deny.toml does not allow that", p["name"], p["license"])).collect());
}

#[test]
fn each_rule_finds_what_it_forbids() {
    let check = |path: &str, body: &str, expected: &[&str]| {
        let source = format!("//! A file.\n{body}\n");
        let found = complaints(path, &source);
        let matches = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.contains(e));
        assert!(matches, "{path}: {body}\n  expected {expected:?}\n  found {found:?}");
    };
    check("src/task/step.rs", "fn f() { tokio::spawn(g()); }", &["step.rs:2: names `tokio`"]);
    check("src/task/step.rs", "// tokio::spawn\nconst S: &str = \"std::thread::spawn\"; let thread = 'x';", &[]);
    check("src/task/step.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::thread; }", &[]);
    check("src/runtime/app.rs", "use hyper::Request;\nuse rdkafka::Message;", &["names `hyper`", "names `rdkafka`"]);
    check("src/serve/mod.rs", "use hyper::Request;", &[]);
    check("src/codec/json.rs", "use bincode::Encode;", &["names `bincode`"]);
    check("src/log/kafka/fetch.rs", "use std::time::SystemTime;", &["names `SystemTime`"]);
    check("topologies/src/orders.rs", "use rocksdb::DB;", &["names `rocksdb`"]);
    check("state/src/store.rs", "use millstream::Record;", &["names `millstream`"]);
    check("src/task/mod.rs", "use crate::{record::{Record, Offset}, runtime::Handle};\nfn dsl() {}", &["uses `crate::runtime`"]);
    check("src/serve/sse.rs", "use crate::{Record, task};\nlet x = crate::task::f();", &["`crate::task`", "`crate::task`"]);
    check("src/a.rs", "fn f() { todo!() }", &["a stub"]);
    check("src/a.rs", "// FIXME later", &["a note to self"]);
    check("src/a.rs", "fn f() { unsafe { g() } }", &["unsafe code"]);
    check("src/a.rs", "// SAFETY: g asks for nothing.\nfn f() { unsafe { g() } }", &[]);
    check("src/a.rs", "fn f<'a>(s: &'a str) -> char { '\"' } // todo!()", &[]);
    check("src/a.rs", "const R: &str = r#\"unsafe \" todo!()\"#;", &[]);
    check("src/a.rs", &"\n".repeat(MAX_LINES), &["more than"]);
    assert_eq!(
        complaints("src/a.rs", "fn f() {}"),
        ["src/a.rs:1: does not begin with `//!`: say what the file is for and what never happens here"]
    );

    let dead =
        dead_links(&root(), "README.md", "[a](Cargo.toml) [b](none.md#x) [c](https://x.y) `src/lib.rs` `src/none.rs` `src/…`");
    assert_eq!(dead.len(), 2, "{dead:?}");

    let allowed: Vec<String> = ["MIT", "ISC"].map(Into::into).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0 OR MIT AND ISC", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
    ] {
        assert_eq!(licence_allowed(expression, &allowed), expected, "{expression}");
    }
}
