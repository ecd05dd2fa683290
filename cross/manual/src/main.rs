//! Writes the man pages and shell completions into a folder: `cargo run -p facelatch-manual -- FOLDER`.
//!
//! A program of its own, which shares two files with facelatch, its command line and its configuration: so a package for a board
//! needs no second build of facelatch for the machine that packages it.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

#[path = "../../../src/cli/arguments.rs"]
mod arguments;
mod configuration;

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("facelatch-manual: give the folder to write into");
        return ExitCode::from(64);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("facelatch-manual: {}: {error}", folder.display());
            ExitCode::from(74)
        }
    }
}

/// What facelatch.1 names besides the commands.
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n.BR facelatch.toml (5),\n.BR journalctl (1)\n";

/// facelatch.1, a page for each command, facelatch.toml.5, and a completion file for each shell.
fn write(folder: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let command = arguments::Arguments::command();
    clap_mangen::generate_to(command.clone(), folder)?;
    OpenOptions::new().append(true).open(folder.join("facelatch.1"))?.write_all(SEE_ALSO.as_bytes())?;
    let configuration = configuration::page(include_str!("../../../config/facelatch.toml"), env!("CARGO_PKG_VERSION"));
    fs::write(folder.join("facelatch.toml.5"), configuration)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command.clone(), "facelatch", folder)?;
    }
    Ok(())
}
