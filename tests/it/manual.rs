//! facelatch.toml(5), which is made of the commented configuration.

use std::path::Path;

use facelatch::config::Config;

#[path = "../../cross/manual/src/configuration.rs"]
mod configuration;

const SHIPPED: &str = include_str!("../../config/facelatch.toml");

/// What may stand at a place of the configuration, as the program itself says when something else stands there.
fn known_to_the_program(section: &str) -> Vec<String> {
    let message = Config::parse(&format!("{section}\nqqqqqqqqqqqqqqqqqqqq = 1\n"), Path::new("facelatch.toml"))
        .expect_err("an unknown key")
        .to_string();
    let (_, known) = message.split_once("expected").unwrap_or_else(|| panic!("{section}: {message}"));
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_of_the_configuration_stands_in_the_man_page() {
    let page = configuration::page(SHIPPED, "1.2.3");
    let mut keys = 0;
    for name in known_to_the_program("") {
        let heading = |section: String| page.find(&format!("\n.SH {section}\n")).map(|at| (section, at));
        let Some((section, begin)) = heading(format!("[{name}]")).or_else(|| heading(format!("[[{name}]]"))) else {
            assert!(page.contains(&format!("\n\\fB{name} = ")), "{name}");
            keys += 1;
            continue;
        };
        let section_of_page = page[begin + 1..].split("\n.SH ").next().unwrap_or_default();
        for key in known_to_the_program(&section) {
            let tag = |prefix| section_of_page.contains(&format!("\n\\fB{prefix}{key} = "));
            assert!(tag("") || tag("# "), "{section} {key}");
            keys += 1;
        }
    }
    assert!(keys > 60, "{keys} keys; are the program's messages still read rightly?");
}

#[test]
fn comments_become_text_and_nothing_in_them_instructions() {
    let page = configuration::page(
        "# All of it.\n\nmode = 1\n[a]\n# Of the section.\n\n# ... see `facelatch check`\n#   an example -v\n# goes on\nwidth = 1\nheight = 2\n\n# Of b.\n# [[b]]\n# 'quoted \\ text'\n# c = 3\n",
        "1.2.3",
    );
    for expected in [
        "\n.PP\nAll of it.\n",
        "\n.SH [a]\n.PP\nOf the section.\n.TP\n\\fBwidth = 1\\fR\n.TQ\n\\fBheight = 2\\fR\n\\&... see \\fBfacelatch check\\fR\n.br\nan example \\-v\n.br\ngoes on\n",
        "\n.SH [[b]]\n.PP\nOf b.\n.TP\n\\fB# c = 3\\fR\n\\&'quoted \\e text'\n.SH FILES\n",
    ] {
        assert!(page.contains(expected), "{expected}\nis not in\n{page}");
    }
}
