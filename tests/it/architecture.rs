//! Rules about the source itself: which room may import which, and what stands nowhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::root;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A file's text without its tests, and its room: the folder or file directly under src/.
fn rooms() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    sources(&src)
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            let first = path.strip_prefix(&src).unwrap().components().next().unwrap();
            let room = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
            (room, path, code)
        })
        .collect()
}

/// What each room may import of the others. Data moves from left to right: nothing on the right is imported on its left.
const MAY_IMPORT: [(&str, &[&str]); 35] = [
    // What every room may import.
    ("error", &[]),
    ("vision", &[]),
    ("gallery", &["vision"]),
    ("sighting", &["gallery", "vision"]),
    ("policy", &["gallery", "sighting", "vision"]),
    ("sight", &["gallery", "sighting", "vision"]),
    ("live", &["sight", "vision"]),
    ("unknown", &["sight", "store", "vision"]),
    ("names", &[]),
    ("telemetry", &["names"]),
    // The latch and its lines are named in the configuration; how templates are fused is the gallery's word.
    ("config", &["gallery"]),
    ("gpio", &["config"]),
    ("latch", &["gpio"]),
    ("program", &["telemetry"]),
    ("camera", &["config", "program", "vision", "telemetry"]),
    ("evidence", &["vision"]),
    ("store", &["clock", "evidence", "gallery", "vision"]),
    ("enroll", &["config", "gallery", "names", "policy", "store", "telemetry", "vision"]),
    ("eval", &["enroll", "evidence", "triplet", "vision"]),
    ("triplet", &[]),
    // Who was there, and what the clock should have shown.
    ("clock", &[]),
    ("attendance", &["clock", "config", "gallery", "names", "store", "telemetry"]),
    ("api", &["attendance", "calibrate", "store"]),
    ("control", &["api", "store"]),
    // They see events and ask; they cannot reach what recognises or drives.
    ("outside", &["config", "store"]),
    ("mqtt", &["api", "config", "outside", "store", "telemetry"]),
    ("hooks", &["config", "outside", "program", "store", "telemetry"]),
    ("threshold", &["config", "evidence", "policy", "vision"]),
    ("scale", &["config", "threshold", "vision"]),
    ("calibrate", &["evidence", "gallery", "policy", "vision"]),
    (
        "service",
        &[
            "api",
            "attendance",
            "calibrate",
            "config",
            "enroll",
            "evidence",
            "gallery",
            "latch",
            "live",
            "policy",
            "scale",
            "sight",
            "store",
            "telemetry",
            "threshold",
            "unknown",
            "vision",
        ],
    ),
    ("http", &["api", "attendance", "config", "live", "service", "store", "telemetry"]),
    (
        "daemon",
        &[
            "api",
            "camera",
            "clock",
            "config",
            "control",
            "enroll",
            "gallery",
            "gpio",
            "hooks",
            "http",
            "latch",
            "live",
            "mqtt",
            "policy",
            "service",
            "sight",
            "sighting",
            "store",
            "telemetry",
            "unknown",
            "vision",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "attendance",
            "calibrate",
            "camera",
            "clock",
            "config",
            "control",
            "daemon",
            "enroll",
            "eval",
            "evidence",
            "gallery",
            "gpio",
            "hooks",
            "http",
            "latch",
            "mqtt",
            "service",
            "store",
            "telemetry",
            "threshold",
            "triplet",
            "vision",
        ],
    ),
    ("main", &["cli"]),
];

/// Every room named after `crate::`, in braces or not.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + 7..];
        match rest.strip_prefix('{') {
            None => found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
            Some(list) => {
                let mut depth = 0;
                let mut word = String::new();
                let mut start = true;
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if depth == 0 && start && (c.is_alphanumeric() || c == '_') => word.push(c),
                        _ if depth == 0 && !word.is_empty() => {
                            found.push(std::mem::take(&mut word));
                            start = false;
                        }
                        _ => {}
                    }
                    if c == ',' && !word.is_empty() {
                        found.push(std::mem::take(&mut word));
                    }
                }
                found.extend((!word.is_empty()).then_some(word));
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_what_they_may() {
    for (room, path, code) in rooms().iter().filter(|(room, ..)| room != "lib") {
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| name == room)
            .unwrap_or_else(|| panic!("{room} is a new room: say what it may import"));
        for import in imports(code) {
            let fine = import == *room || import == "error" || allowed.contains(&import.as_str());
            assert!(fine, "{} imports {import}, which {room} may not", path.display());
        }
    }
}

/// The paths of a `use`, its braces resolved: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inside.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 { parts.push(String::new()) } else { parts.last_mut().unwrap().push(c) }
    }
    let named = parts.iter().filter(|part| !part.trim().is_empty());
    named.flat_map(|part| paths(part)).map(|path| format!("{}{path}", before.trim())).collect()
}

/// A file's module: `src/vision/mod.rs` is `vision`, `src/enroll/scan.rs` is
/// `enroll::scan`.
fn module(path: &Path) -> String {
    let within = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let parts: Vec<_> = within.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
    parts.join("::")
}

/// The modules that a file uses. A module's own parts, and what it takes from those
/// around it, are left out: these are one room.
fn uses(of: &str, code: &str, modules: &[String]) -> Vec<String> {
    let trees = code.split("use ").skip(1).filter_map(|rest| rest.split_once(';')).map(|(tree, _)| tree);
    let absolute = trees.flat_map(paths).filter_map(|path| {
        let (mut base, mut rest) = (of, path.as_str());
        if let Some(path) = rest.strip_prefix("crate::") {
            return Some(path.to_owned());
        }
        while let Some(path) = rest.strip_prefix("super::") {
            (base, rest) = (base.rsplit_once("::").map_or("", |(parent, _)| parent), path);
        }
        (rest.len() < path.len()).then(|| format!("{base}::{rest}").trim_start_matches("::").to_owned())
    });
    let named = absolute.filter_map(|path| {
        let within = |module: &&String| path == **module || path.starts_with(&format!("{module}::"));
        modules.iter().filter(within).max_by_key(|module| module.len()).cloned()
    });
    let apart = |a: &str, b: &str| a != b && !a.starts_with(&format!("{b}::")) && !b.starts_with(&format!("{a}::"));
    named.filter(|module| apart(of, module)).collect()
}

#[test]
fn no_module_uses_itself_round_about() {
    let files: Vec<(String, String)> = rooms().into_iter().map(|(_, path, code)| (module(&path), code)).collect();
    let modules: Vec<String> = files.iter().map(|(module, _)| module.clone()).collect();
    let mut left: Vec<(&str, Vec<String>)> =
        files.iter().map(|(module, code)| (module.as_str(), uses(module, code, &modules))).collect();
    // Whoever uses none of those left is on no circle.
    while let Some(free) = left.iter().position(|(_, used)| used.iter().all(|u| left.iter().all(|(m, _)| u != m))) {
        left.swap_remove(free);
    }
    assert!(left.is_empty(), "circles: {left:#?}");
}

#[test]
fn the_import_reader_reads_imports() {
    let code = "use crate::{\n    camera::{self, capture::{Capture}},\n    config::Config, gpio,\n};\nuse crate::store::Store;\nlet x = crate::policy::f();";
    assert_eq!(imports(code), ["camera", "config", "gpio", "store", "policy"]);
    assert_eq!(paths("super::{a, b::{c, d::E},\n}"), ["super::a", "super::b::c", "super::b::d::E"]);
    let modules = ["a", "a::b", "a::c", "d::e"].map(str::to_owned);
    let code = "use super::{b::B, f};\nuse crate::{d::e::{self, X}, g::Y};\n";
    assert_eq!(uses("a::c", code, &modules), ["a::b", "d::e", "d::e"]);
}

#[test]
fn time_is_an_argument() {
    for (room, path, code) in rooms() {
        if ["vision", "gallery", "policy", "clock", "attendance"].contains(&room.as_str()) {
            assert!(!code.contains("::now()"), "{} reads the clock", path.display());
        }
    }
}

#[test]
fn unsafe_is_forbidden() {
    assert!(fs::read_to_string(root().join("src/lib.rs")).unwrap().contains("#![forbid(unsafe_code)]"));
}

#[test]
fn the_process_ends_in_main_only() {
    for (_, path, code) in rooms() {
        assert!(!code.contains("process::exit"), "{}", path.display());
    }
    assert!(fs::read_to_string(root().join("src/main.rs")).unwrap().lines().count() <= 30);
}

#[test]
fn nothing_outside_of_tests_unwraps() {
    for (_, path, code) in rooms() {
        assert!(!code.contains(".unwrap()"), "{}: say with expect why it cannot fail", path.display());
    }
}
