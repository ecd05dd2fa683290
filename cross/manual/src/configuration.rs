//! facelatch.toml(5), made of the commented configuration: what a key means is written once.

/// The page, in the language of man(7), of the text of config/facelatch.toml, which is read line by line:
///
/// - `[section]`, or `# [[section]]` where the file shows one that is not wanted by everybody, begins a section;
/// - a comment belongs to the keys below it, whether they are set or shown only (`# key = value`);
/// - a comment with an empty line below it is said of the whole section, or of the file, and one right above a section of that;
/// - a line of a comment that is indented is an example and stays a line of its own.
pub fn page(file: &str, version: &str) -> String {
    let mut page = format!(
        ".TH facelatch.toml 5 \"\" \"facelatch {version}\"\n.nh\n.ad l\n.SH NAME\nfacelatch.toml \\- the configuration of facelatch(1)\n\
         .SH DESCRIPTION\nSettings are shown with their values in the file as it is installed; what begins with # is not set there.\n.PP\n"
    );
    let (mut comment, mut settings) = (Vec::new(), Vec::new());
    let mut in_section = false;
    for line in file.lines().chain([""]) {
        let shown = line.strip_prefix("# ").unwrap_or(line);
        let is_setting = is_setting(shown);
        if !is_setting && !settings.is_empty() {
            page += &entry(&mut settings, &mut comment);
        }
        if is_setting {
            if !in_section {
                page += ".SH BEFORE THE FIRST SECTION\n";
                in_section = true;
            }
            settings.push(line);
        } else if shown.starts_with('[') {
            page += &format!(".SH {}\n{}", escaped(shown), paragraph(&mut comment));
            in_section = true;
        } else if let Some(words) = line.strip_prefix('#') {
            comment.push(words.strip_prefix(' ').unwrap_or(words));
        } else {
            page += &paragraph(&mut comment);
        }
    }
    page + END
}

const END: &str = "\
.SH FILES
.TP
.I /etc/facelatch/facelatch.toml
The file that is read where \\fB\\-\\-config\\fR names none.
.TP
.I /usr/share/doc/facelatch/examples/network.conf
How the service gets a network, and passwords that stand in no configuration.
.SH SEE ALSO
.BR facelatch (1),
.BR facelatch\\-check (1),
.BR facelatch\\-doctor (1),
.BR facelatch\\-password (1),
.BR systemd.exec (5)
";

/// `key = value`.
fn is_setting(line: &str) -> bool {
    line.split_once(" = ")
        .is_some_and(|(key, _)| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// Keys that follow each other, and the comment they share; both begin anew.
fn entry(settings: &mut Vec<&str>, comment: &mut Vec<&str>) -> String {
    let tags: Vec<String> = settings.drain(..).map(bold).collect();
    format!(".TP\n{}\n{}", tags.join("\n.TQ\n"), text(&std::mem::take(comment)))
}

/// A comment that belongs to no key; it begins anew.
fn paragraph(comment: &mut Vec<&str>) -> String {
    if comment.is_empty() { String::new() } else { format!(".PP\n{}", text(&std::mem::take(comment))) }
}

/// The lines of a comment as one running text, examples each on a line of its own.
fn text(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let example = line.starts_with(' ');
        if example && !text.is_empty() {
            text += ".br\n";
        }
        text += &format!("{}\n", at_start_of_line(&marked(line.trim())));
        if example {
            text += ".br\n";
        }
    }
    text
}

/// What stands between backquotes becomes bold. A pair has to be on one line, or the rest of it would be.
fn marked(line: &str) -> String {
    let parts = line.split('`').enumerate();
    parts.map(|(i, part)| if i % 2 == 0 { escaped(part) } else { bold(part) }).collect()
}

fn bold(words: &str) -> String {
    format!("\\fB{}\\fR", escaped(words))
}

fn escaped(words: &str) -> String {
    words.replace('\\', "\\e").replace('-', "\\-")
}

/// A line that begins with a full stop or an apostrophe would be taken for an instruction.
fn at_start_of_line(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}
