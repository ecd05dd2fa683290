//! People's names: which can be one, and when two spellings are the same.
//!
//! Names come from files that many systems wrote, and from keyboards. A Mac decomposes `ë`, a
//! phone leaves a blank at the end, Persian needs a non-joiner: these are one name. A character
//! that shows nothing would make a twin of a name, so it is refused, by its number.

use unicode_normalization::UnicodeNormalization;

const NON_JOINER: char = '\u{200c}';
const JOINER: char = '\u{200d}';

/// The longest name, in bytes: a file name holds 255, and an ending.
const LONGEST: usize = 200;

/// The one spelling of a name: composed (NFC), plain blanks and none at its ends, joiners and
/// variation selectors only where they change what is seen.
pub fn canonical(name: &str) -> String {
    let mut spelled = pass(name);
    // What is taken out may bring together what has to be taken out, or composed, too.
    while let Some(again) = Some(pass(&spelled)).filter(|again| *again != spelled) {
        spelled = again;
    }
    spelled
}

fn pass(name: &str) -> String {
    let mut kept = String::with_capacity(name.len());
    let mut rest = name.nfc().map(|c| if is_blank(c) { ' ' } else { c }).peekable();
    while let Some(c) = rest.next() {
        let before = kept.chars().next_back().unwrap_or(' ');
        let shows = match c {
            NON_JOINER | JOINER => joins(before) && rest.peek().is_some_and(|next| joins(*next)),
            c if is_selector(c) => selects(before),
            _ => true,
        };
        if shows {
            kept.push(c);
        }
    }
    kept.trim().to_owned()
}

/// The name's one spelling.
///
/// # Errors
/// Why nobody can be called so.
pub fn check(name: &str) -> Result<String, String> {
    let name = canonical(name);
    let wrong = if name.is_empty() {
        "it is empty".into()
    } else if name.len() > LONGEST {
        format!("it is longer than {LONGEST} bytes")
    } else if name.contains('/') {
        "it contains a slash".into()
    } else if name.starts_with('.') {
        "it begins with a dot".into()
    } else if let Some(c) = name.chars().find(|c| is_unprintable(*c)) {
        format!("it contains {} (U+{:04X})", kind_of(c), u32::from(c))
    } else if is_reserved(&name) {
        "programs keep other files under such a name".into()
    } else {
        return Ok(name);
    };
    Err(wrong)
}

fn kind_of(c: char) -> &'static str {
    match c {
        '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => "a line break",
        c if c.is_control() => "a control character",
        _ => "a character that cannot be seen",
    }
}

/// Control characters, and those that reorder or hide text: they must not reach a terminal.
pub fn is_unprintable(c: char) -> bool {
    let harmless = c == NON_JOINER || c == JOINER || is_selector(c);
    let invisible =
        is_default_ignorable(c) || matches!(c, '\u{2028}' | '\u{2029}' | '\u{2800}' | '\u{fff9}'..='\u{fffb}');
    c.is_control() || invisible && !harmless
}

/// Unicode's `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt): no glyph of their own.
fn is_default_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Blanks that look like the plain one; the wide one of Chinese and Japanese does not.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}')
}

/// Chooses a form of the character before it: of emoji, ideographs, Mongolian letters.
fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' | '\u{180b}'..='\u{180d}' | '\u{180f}')
}

fn is_emoji(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}')
}

/// Letters of scripts that join (Arabic and its kin) or stack (those of India), and emoji.
fn joins(c: char) -> bool {
    let letter = matches!(c,
        '\u{600}'..='\u{dff}' | '\u{f00}'..='\u{109f}' | '\u{1780}'..='\u{1cff}' | '\u{a840}'..='\u{abff}'
        | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10a00}'..='\u{11fff}' | '\u{1e900}'..='\u{1e95f}');
    letter && !is_default_ignorable(c) || is_emoji(c) || c == '\u{fe0f}'
}

fn selects(c: char) -> bool {
    let ideograph = matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
    ideograph || is_emoji(c) || matches!(c, '\u{1000}'..='\u{109f}' | '\u{1820}'..='\u{18aa}')
}

/// Names under which systems and programs keep what is no picture of a person: recycle bins,
/// snapshots, thumbnails, copies of a conflict, files not finished yet.
pub fn is_reserved(name: &str) -> bool {
    const WHOLE: [&str; 33] = [
        "#recycle",
        "#snapshot",
        "#tmp",
        "~snapshot",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@sharebin",
        "@sharesnap",
        "@snapshot",
        "@tmp",
        "$recycle.bin",
        "$extend",
        "recycle",
        "recycle bin",
        "recyclebin",
        "recycled",
        "recycler",
        "recycle.bin",
        "system volume information",
        "found.000",
        "lost+found",
        "lost.dir",
        "__macosx",
        "network trash folder",
        "temporary items",
        "trash",
        "trash can",
        "trashbox",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
    ];
    const BEGINNINGS: [&str; 3] = [".", "~$", "~syncthing~"];
    const ENDINGS: [&str; 7] = ["~", ".tmp", ".part", ".partial", ".filepart", ".crdownload", ".!sync"];
    const WITHIN: [&str; 5] = [".sync-conflict-", "conflicted copy", "_conflict-", "(sfconflict ", "(case conflict"];
    let name = name.to_lowercase();
    WHOLE.contains(&name.as_str())
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || WITHIN.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_has_one_spelling() {
        for (spelled, meant) in [
            ("Zoe\u{308} Mu\u{308}ller", "Zo\u{eb} M\u{fc}ller"),
            (" Ada Lovelace \u{a0}", "Ada Lovelace"),
            ("Ada\u{a0}Lovelace", "Ada Lovelace"),
            ("A\u{200c}d\u{200d}a\u{200d}", "Ada"),
            ("Ada\u{fe0f}", "Ada"),
            ("علی\u{200c}\u{fe0f}", "علی"),
            ("Zoe\u{200d}\u{308}", "Zo\u{eb}"),
            ("山\u{200c}田", "山田"),
            ("\u{1112}\u{1161}\u{11ab}", "한"),
        ] {
            assert_eq!(check(spelled).as_deref(), Ok(meant), "{spelled:?}");
        }
    }

    #[test]
    fn names_of_every_script_stay_as_they_are() {
        for name in [
            "علی\u{200c}رضا",
            "ශ\u{dca}\u{200d}රී",
            "क\u{94d}\u{200d}ष",
            "👩\u{200d}🔬 Ada",
            "🏳\u{fe0f}\u{200d}🌈 Max",
            "👩🏽\u{200d}❤\u{fe0f}\u{200d}👨🏻",
            "葛\u{e0100}城",
            "山田\u{3000}太郎",
            "דוד",
            "Иван",
            "李",
            "O'Neil-Smith, Jr.",
            "C3PO #1 @home",
        ] {
            assert_eq!(check(name).as_deref(), Ok(name), "{name:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_refused_by_its_number() {
        for c in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{206a}',
            '\u{2800}',
            '\u{3164}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fffa}',
            '\u{e0041}',
        ] {
            let refusal = check(&format!("A{c}da")).unwrap_err();
            assert!(refusal.ends_with(&format!("cannot be seen (U+{:04X})", u32::from(c))), "{refusal}");
        }
        assert_eq!(check("Ada\nGrace").unwrap_err(), "it contains a line break (U+000A)");
        assert_eq!(check("Ada\u{1b}[2J").unwrap_err(), "it contains a control character (U+001B)");
    }

    #[test]
    fn bins_snapshots_and_unfinished_files_are_nobody() {
        for name in [
            "#recycle",
            "@Recycle",
            "@eaDir",
            "#snapshot",
            "$RECYCLE.BIN",
            ".stversions",
            "lost+found",
            "LOST+FOUND",
            "System Volume Information",
            "~$Ada.jpg",
            "Ada.sync-conflict-20261128-120000-ABCDEFG.jpg",
            "Thumbs.db",
            ".Trash-1000",
            "@Recently-Snapshot",
            ".@__thumb",
            "._Ada.jpg",
            "RECYCLER",
            "Recycle Bin",
            "trashbox",
            "Trash",
            "@tmp",
            "#tmp",
            "desktop.ini",
            "Ada (Grace's conflicted copy 2026-11-28).jpg",
            "Ada~",
            "Ada.tmp",
            "Ada.PART",
            "ada_conflict-20190101-120000.jpg",
        ] {
            assert!(is_reserved(name) && check(name).is_err(), "{name}");
        }
        for name in ["Ada", "Recyclia", "Trasher", "Tempest", "Ada.jpg", "Conflict", "Ada (2).jpg"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_checked_name_is_its_own_spelling(name: String) {
            if let Ok(spelled) = check(&name) {
                assert_eq!(check(&spelled), Ok(spelled.clone()));
            }
        }
    }
}
