//! The command line as people write it; help, man page and completions come from here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   a negative answer: the face is not known, the picture or model was refused, the demo went wrong
  64  the command line is wrong
  69  a device, or the running daemon, is not available
  70  an error in this program
  74  a file or the store cannot be read or written
  77  no permission; the configuration cannot be read
  78  the configuration is wrong, or others can write it

While the daemon runs, commands ask it over its socket; otherwise they open the store themselves.";

/// The configuration file where none is named.
pub const DEFAULT_CONFIG: &str = "/etc/facelatch/facelatch.toml";

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
        default_value = DEFAULT_CONFIG,
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
    /// Look at camera, GPIO, models, store, folders, clock, page, broker and hooks; one line each, with the remedy.
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
    /// List the people who came to the door and are not enrolled; give one a name, or forget one.
    ///
    /// They are kept only if enroll.keep_unknown says so. Without a further word: list.
    Unknown {
        #[command(subcommand)]
        action: Option<UnknownAction>,
    },
    /// Ask for a password and print the line of the configuration that holds its hash (http.password).
    ///
    /// The password is read from the terminal, twice and without showing it, or from the standard input if that is no terminal.
    Password {
        /// Make a random token for programs instead, and print it with what goes into http.tokens.
        #[arg(long)]
        token: bool,
    },
    /// Say what the threshold means for the people enrolled, and what to better.
    ///
    /// Compares each picture with the person's other pictures and with everybody else: who is at risk of being taken for whom, who
    /// is enrolled too weakly and how to mend it, and which threshold that allows. Ends with 1 when the threshold in force is
    /// looser than that.
    ///
    /// Shows how near strangers came to this door, too: a histogram of their denied visits, and
    /// the threshold they speak for. From 40 visits on it comes into force where it is stricter
    /// than the model's, at a start and once a day.
    Calibrate {
        /// A folder with pictures of people who are not enrolled, of any number and names: how near do they come?
        #[arg(long, value_name = "DIR")]
        strangers: Option<PathBuf>,
        /// Draw the distances and the threshold into this file.
        #[arg(long, value_name = "FILE.svg")]
        plot: Option<PathBuf>,
        /// Forget how near strangers came, and count from nothing: after the camera was moved, or
        /// if someone played tricks.
        #[arg(long, conflicts_with_all = ["strangers", "plot"])]
        forget_strangers: bool,
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
    /// Say who was there: per person and day first in, last out, visits and time present.
    ///
    /// Without dates, the last seven days. docs/attendance.md says what the numbers mean; [attendance] of the configuration sets time
    /// zone, begin of the day, and whether the device sees people come, go or both.
    Attendance(AttendanceArguments),
    /// List the models, verify them, or add an embedder of your own.
    ///
    /// Without a further word: list. docs/models.md shows by an example how to add one.
    Models {
        /// The folder of models.toml; otherwise models.dir of the configuration.
        #[arg(long, global = true, value_name = "DIR")]
        models: Option<PathBuf>,
        #[command(subcommand)]
        action: Option<ModelsAction>,
    },
    /// Show how the running daemon is.
    Status,
    /// Open the door now. Whoever may use the daemon's socket may do this; it is recorded with the user's name.
    ///
    /// Answers when the relay is active. Exit code 69: the relay refused (max_hold,
    /// max_active_per_minute, a line that fails); 78: in attendance mode nothing opens the door.
    Open,
    /// Measure how well the models tell people apart, on pictures of known people.
    ///
    /// Prints accuracy, AUC, equal error rate and, for each false-match rate, the share of genuine comparisons accepted and the
    /// distance for the manifest. Several folders of people are compared: what the manifest's limits do to each.
    /// With --enrolled and --visits it plays recorded visits at a door instead and counts who is let in.
    /// Needs no configuration file when --models is given.
    Eval(EvalArguments),
    /// Train an embedder's last layer anew, by triplet loss, on pictures of known people.
    ///
    /// Writes the layer and its manifest entry, with thresholds measured on people who were held out, beside the models; set
    /// models.embedder to its name to use it. Needs no configuration file.
    Train(TrainArguments),
    /// Measure what recognition costs on this machine, stage by stage.
    ///
    /// Looks at pictures as the camera sends them, each a fresh frame on which every net runs, and prints the median and the 95th
    /// percentile of each stage, frames per second, memory, and a line for the table of boards in README.md. Embedder, precision and
    /// smallest face are those of the configuration; without its file, the defaults and the models of the package or of the checkout.
    Bench(BenchArguments),
    /// Drive the relay inactive and end. The service runs this after the daemon, however that died.
    Lock,
}

#[derive(Debug, Subcommand)]
pub enum UnknownAction {
    /// List them, the last to come first.
    List,
    /// Enrol one: the pictures kept go into the enroll folder and are judged like any others.
    ///
    /// Ends with 1 when none of them was good enough.
    Name {
        /// Its number in the list.
        id: u32,
        /// Who it is.
        name: String,
    },
    /// Write the best picture of one into a file.
    Picture {
        id: u32,
        #[arg(value_name = "FILE.jpg")]
        file: PathBuf,
    },
    /// Forget one, with the pictures.
    Forget { id: u32 },
}

#[derive(Debug, Subcommand)]
pub enum ModelsAction {
    /// List the models: role, precisions, input, dimension, licence, whether each file is the one the manifest was written for.
    List,
    /// Compare every file's hash, load every net and run it once in each precision.
    ///
    /// Ends with 1 when something is wrong.
    Verify,
    /// Add an embedder, an ONNX file, to the models.
    ///
    /// The file is run first. If it can be used, it is copied into the models' folder as NAME.onnx, with its entry of the manifest as
    /// NAME.toml; set models.embedder = "NAME" then. It ends with 1, and nothing is written, when the file cannot be used.
    Add(AddArguments),
}

#[derive(Args, Debug)]
pub struct AddArguments {
    /// The net: one picture in (1 x 3 x height x width, 32-bit floating point), one embedding out.
    pub file: PathBuf,
    /// What the configuration will call it: letters, digits, - and _.
    #[arg(long)]
    pub name: String,
    /// Size of the picture it takes, in pixels.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    pub input: (usize, usize),
    /// Order of the colours it takes.
    #[arg(long)]
    pub order: Order,
    /// A pixel, 0 to 255, becomes (pixel - MEAN) * SCALE.
    #[arg(long, allow_negative_numbers = true)]
    pub mean: f32,
    /// See --mean; 1/128 is 0.0078125, 1/127.5 is 0.00784314.
    #[arg(long)]
    pub scale: f32,
    /// How faces were cut out when it was trained.
    ///
    /// arcface: five points onto the 112-pixel template of the ArcFace family; dlib: five points onto dlib's; box=0.1: the face's box
    /// with a tenth of its side around it; or a TOML file with points = [[x, y], ...] and weights = [...], in pixels of the input.
    #[arg(long, value_name = "arcface|dlib|box=MARGIN|FILE")]
    pub alignment: String,
    /// The licence of its weights, for the list.
    #[arg(long, value_name = "TEXT")]
    pub license: String,
    /// Where it comes from, for the list; otherwise the file's name.
    #[arg(long, value_name = "TEXT")]
    pub origin: Option<String>,
}

fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let size = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let in_range = |side: usize| (12..=1024).contains(&side);
    size.filter(|(width, height)| in_range(*width) && in_range(*height))
        .ok_or_else(|| "give WIDTHxHEIGHT of 12 to 1024, such as 112x112".into())
}

/// The colours' order in a net's input. An enumeration of the command line's own: this file is compiled into the manual's program too,
/// which has nothing else of the crate.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Order {
    Rgb,
    Bgr,
}

#[derive(Args, Debug)]
pub struct AttendanceArguments {
    /// The first day, such as 2026-11-01; otherwise six days before the last.
    #[arg(long, value_name = "DATE")]
    pub from: Option<String>,
    /// The last day; otherwise today.
    #[arg(long, value_name = "DATE")]
    pub to: Option<String>,
    /// Only this person.
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
    /// A table to read, CSV for a spreadsheet, or JSON; --json goes first.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
}

/// Which models to measure or to train.
#[derive(Args, Debug)]
pub struct ModelArguments {
    /// The folder of models.toml; without it, what the configuration file says.
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// An embedder of the manifest.
    #[arg(long, value_name = "NAME")]
    pub embedder: Option<String>,
    /// Calculate as w8 or int8.
    #[arg(long, value_parser = ["w8", "int8"])]
    pub precision: Option<String>,
    /// Average each face with its mirror image, as models.mirror does.
    #[arg(long)]
    pub mirror: bool,
}

#[derive(Args, Debug)]
pub struct BenchArguments {
    /// A folder of pictures (JPEG or PNG) as the camera sends them.
    #[arg(long, value_name = "DIR")]
    pub frames: Option<PathBuf>,
    /// How long to measure.
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub model: ModelArguments,
}

#[derive(Args, Debug)]
pub struct EvalArguments {
    /// A folder with a folder of pictures for each person: every picture is compared with every other.
    ///
    /// Given several times, each folder is a group of its own: false-match rate and false non-match rate at
    /// each limit of the manifest, with intervals over people. A folder of such folders is a group
    /// of groups, whose people are compared within their own.
    #[arg(long, visible_alias = "people", value_name = "DIR", required_unless_present = "enrolled")]
    pub images: Vec<PathBuf>,
    /// Pairs as Labeled Faces in the Wild lists them: they give the accuracy, and the pictures that occur in them everything else.
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArguments,
    /// Draw each group's false-match rate over distance into this folder:
    /// populations.svg.
    ///
    /// Of one folder also the ROC and the histogram of distances: roc.svg, distances.svg.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Print the embedder's populations for the manifest, and nothing else: each folder's people,
    /// down to the smallest rate for which there is evidence, of its precisions the strictest.
    ///
    /// A file source.txt in a folder says where its pictures are from.
    #[arg(long, requires = "images", conflicts_with_all = ["pairs", "plots"])]
    pub table: bool,
    /// With --table: one more folder, of people who set no limit, such as young children.
    #[arg(long, value_name = "DIR", requires = "table")]
    pub no_limit: Vec<PathBuf>,
    /// Enrol DIR/NAME/*.jpg as the enroll folder would, and play the visits of --visits at that door.
    ///
    /// Given several times with as many --visits, each is a door of its own; the counts are added up.
    #[arg(long, value_name = "DIR", requires = "visits", conflicts_with_all = ["images", "pairs", "plots"])]
    pub enrolled: Vec<PathBuf>,
    /// Visits: DIR/NAME/SEQUENCE/*.jpg, frames in the order of their names, ten a second.
    ///
    /// A NAME that is not enrolled is a stranger.
    #[arg(long, value_name = "DIR", requires = "enrolled")]
    pub visits: Vec<PathBuf>,
    /// Let one in N visits of strangers in; otherwise recognition.false_match_rate of the configuration.
    #[arg(long, value_name = "1/N", requires = "enrolled", value_parser = parse_rate)]
    pub rate: Option<f64>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let rate = match text.split_once('/') {
        Some((one, of)) => number(one).zip(number(of)).map(|(one, of)| one / of),
        None => number(text),
    };
    rate.filter(|rate| *rate > 0.0 && *rate <= 0.01)
        .ok_or_else(|| "give more than 0 and at most 1/100, such as 1/10000".into())
}

#[derive(Args, Debug)]
pub struct TrainArguments {
    /// A folder with a folder of pictures for each person.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// The new layer and its manifest entry, without extension, in the folder of models.toml: models/NAME makes models/NAME.npy
    /// and models/NAME.toml, for an embedder called NAME.
    #[arg(long, value_name = "DIR/NAME")]
    pub out: PathBuf,
    /// The embedder of the manifest whose last layer to start from.
    #[arg(long, default_value = "dlib", value_name = "NAME")]
    pub embedder: String,
    /// By how much somebody else must be farther away than the same person, in squared distance.
    #[arg(long, default_value_t = 0.7, value_name = "α")]
    pub alpha: f32,
    /// Anchors in a step.
    #[arg(long, default_value_t = 256, value_name = "COUNT")]
    pub batch: usize,
    /// Pictures among which each anchor's negative is looked for.
    #[arg(long, default_value_t = 2500, value_name = "COUNT")]
    pub pool: usize,
    /// Learn from the nearest negative (hard), or from the nearest of those farther away than the positive (semi-hard).
    #[arg(long, default_value = "semi-hard", value_parser = ["semi-hard", "hard"])]
    pub mining: String,
    /// At most so many steps; the best number of them is found on held-out people.
    #[arg(long, default_value_t = 800, value_name = "COUNT")]
    pub steps: usize,
    /// Step width of Adam.
    #[arg(long, default_value_t = 1e-4, value_name = "RATE")]
    pub learning_rate: f32,
    /// Share of the way back to the old layer gone after each step.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub decay: f32,
    /// How much of what the old layer makes of the mean face is put back; the loss takes all of it away.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub common: f32,
    /// Parts into which the people are divided: each is held out once, and gives the thresholds.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub folds: usize,
    /// So often the people are divided anew, each time differently: more trainings, but thresholds from more comparisons.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub repeats: usize,
    /// Keep what the nets make of the pictures in this folder: the next training on the same pictures begins at once.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The same seed, pictures and options give the same layer.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Draw the course of the training and the ROC of held-out people into this folder: training.svg, roc.svg.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}
