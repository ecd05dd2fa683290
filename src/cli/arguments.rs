//! The command line as people write it; help, man page and completions come from here.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   a negative answer: the face is not known, the picture was refused, the demo went wrong
  64  the command line is wrong
  69  a device, or the running daemon, is not available
  70  an error in this program
  74  a file or the store cannot be read or written
  77  no permission
  78  the configuration is wrong

While the daemon runs, commands ask it over its socket; otherwise they open the store themselves.";

/// A door that knows its people: opens it, or counts people in, by their faces.
#[derive(Debug, Parser)]
#[command(name = "facelatch", version, after_help = EXIT_CODES, propagate_version = true, subcommand_required = true)]
pub struct Arguments {
    /// The configuration file.
    #[arg(
        long,
        short,
        global = true,
        env = "FACELATCH_CONFIG",
        default_value = "/etc/facelatch/facelatch.toml",
        value_name = "FILE"
    )]
    pub config: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the camera and work the latch: the daemon.
    ///
    /// Runs in the foreground until it gets SIGTERM or SIGINT; systemd starts it as facelatch.service. The log goes to
    /// the standard error output: journalctl -u facelatch.
    Run,
    /// Show the whole chain at work on pictures, without camera and GPIO.
    ///
    /// Enrols people by dropping pictures into a fresh enroll folder, plays frames with known people, an unknown one,
    /// two at once and nobody, and checks each decision. Ends with 0 only if every one was right.
    Demo {
        /// A folder with the portraits the demo is made of.
        #[arg(long, default_value = "tests/data", value_name = "DIR")]
        pictures: PathBuf,
        /// The folder of models.toml.
        #[arg(long, default_value = "models", value_name = "DIR")]
        models: PathBuf,
        /// Where frames, store, enroll folder and annotated pictures go; emptied first.
        #[arg(long, default_value = "target/demo", value_name = "DIR")]
        out: PathBuf,
    },
    /// Check the configuration file, exactly as a start would.
    Check,
    /// Look at camera, GPIO, models, store, folders and clock; one line each, with the remedy.
    Doctor,
    /// List the people enrolled.
    People,
    /// Enrol a picture of somebody.
    ///
    /// The picture is judged first; accepted, it is written into the enroll folder, which is the truth about who is known.
    /// Dropping it there by hand does the same.
    Enroll {
        /// A JPEG or PNG with one face on it.
        file: PathBuf,
        /// Whose face it is.
        #[arg(long, short)]
        name: String,
    },
    /// Say who is on a picture, how near, who is next, and why not.
    ///
    /// Ends with 0 when the largest face is known, with 1 when it is not.
    Identify {
        picture: PathBuf,
        /// Draw boxes, landmarks and names into a copy of the picture (.jpg or .png).
        #[arg(long, value_name = "FILE")]
        annotate: Option<PathBuf>,
    },
    /// Say what the threshold means for the people enrolled, and what to better.
    ///
    /// Compares each picture with the person's other pictures and with everybody else: who is at risk of being taken for whom, who
    /// is enrolled too weakly and how to mend it, and which threshold that allows. Ends with 1 when the threshold in force is
    /// looser than that.
    Calibrate {
        /// A folder with pictures of people who are not enrolled, of any number and names: how near do they come?
        #[arg(long, value_name = "DIR")]
        strangers: Option<PathBuf>,
        /// Draw the distances and the threshold into this file.
        #[arg(long, value_name = "FILE.svg")]
        plot: Option<PathBuf>,
    },
    /// List what happened.
    Events {
        /// Only from this moment on: a duration (2h, 7d) or a local time (2026-11-01, "2026-11-01 08:00").
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// At most so many, the newest.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        /// Stay, and print each event as it happens. Needs the running daemon.
        #[arg(long, short)]
        follow: bool,
    },
    /// Show how the running daemon is.
    Status,
    /// Open the door now. Whoever may use the daemon's socket may do this; it is recorded with the user's name.
    Open,
    /// Drive the relay inactive and end. The service runs this after the daemon, however that died.
    Lock,
}
