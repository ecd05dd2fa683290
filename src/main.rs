use std::process::ExitCode;

fn main() -> ExitCode {
    facelatch::cli::main()
}
