//! `facelatch models`, with small random nets that the test writes itself, and what a change of the model does.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use crate::{door, support::root};

const SIDE: usize = 112;
const DIMENSION: usize = 64;

/// Numbers between -1 and 1, the same every time.
fn random(seed: u32) -> impl Iterator<Item = f32> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(seed), next).skip(1).map(|state| (state >> 8) as f32 / (1 << 23) as f32 - 1.0)
}

fn tensor(name: &str, dims: &[usize], values: impl Iterator<Item = f32>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|&n| n as i64).collect(),
        data_type: DataType::Float as i32,
        raw_data: values.take(dims.iter().product()).flat_map(f32::to_le_bytes).collect(),
        ..TensorProto::default()
    }
}

fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dim = |&n: &usize| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(n as i64)),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let of = type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(of)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), ..ValueInfoProto::default() }
}

fn node(operation: &str, inputs: &[&str], output: &str, ints: &[(&str, &[i64])]) -> NodeProto {
    let attribute = |&(name, ints): &(&str, &[i64])| AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: ints.to_vec(),
        ..AttributeProto::default()
    };
    NodeProto {
        op_type: operation.into(),
        name: output.into(),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        attribute: ints.iter().map(attribute).collect(),
        ..NodeProto::default()
    }
}

/// A small net of the ArcFace family's operations: convolutions with PRelu, then a dense layer over the whole map.
fn arcface_like() -> ModelProto {
    let map = SIDE / 16 * SIDE / 16 * 16;
    let nodes = vec![
        node("Conv", &["input", "w1"], "conv1", &[("strides", &[4, 4]), ("kernel_shape", &[4, 4])]),
        node("PRelu", &["conv1", "slopes"], "prelu1", &[]),
        node("Conv", &["prelu1", "w2"], "conv2", &[("strides", &[4, 4]), ("kernel_shape", &[4, 4])]),
        node("Flatten", &["conv2"], "flat", &[]),
        node("MatMul", &["flat", "dense"], "embedding", &[]),
    ];
    let constants = vec![
        tensor("w1", &[8, 3, 4, 4], random(1)),
        tensor("slopes", &[8, 1, 1], std::iter::repeat(0.25)),
        tensor("w2", &[16, 8, 4, 4], random(2)),
        tensor("dense", &[map, DIMENSION], random(3)),
    ];
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        graph: Some(GraphProto {
            node: nodes,
            initializer: constants,
            input: vec![value("input", &[1, 3, SIDE, SIDE])],
            output: vec![value("embedding", &[1, DIMENSION])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

/// A door whose models' folder is its own.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        door::config(dir.path());
        let models = dir.path().join("models");
        fs::create_dir(&models).unwrap();
        for file in fs::read_dir(root().join("models")).unwrap().map(|entry| entry.unwrap()) {
            if file.file_type().unwrap().is_file() && !file.file_name().to_string_lossy().starts_with("facenet") {
                fs::copy(file.path(), models.join(file.file_name())).unwrap();
            }
        }
        let site = Site { dir };
        site.configure("dlib", "w8", "");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, embedder: &str, precision: &str, recognition: &str) {
        let text = format!(
            "mode = \"unlock\"\n[models]\ndir = \"models\"\nembedder = \"{embedder}\"\nprecision = \"{precision}\"\n\
             [recognition]\n{recognition}\n[enroll]\nfolder = \"enroll\"\nmax_spread = 2.0\n[store]\npath = \"store\"\n[latch]\nbackend = \"simulated\"\nline = 17\n\
             [control]\nsocket = \"control.sock\"\n[camera]\nsource = \"files\"\nfolder = \"frames\"\n"
        );
        fs::write(self.path("facelatch.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = crate::support::command(env!("CARGO_BIN_EXE_facelatch"));
        command.arg("--config").arg(self.path("facelatch.toml")).args(arguments).env_remove("RUST_LOG");
        command
    }

    /// Exit code, standard output, standard error output.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
    }

    fn write_net(&self, model: &ModelProto) -> PathBuf {
        let path = self.path("brought.onnx");
        fs::write(&path, model.encode_to_vec()).unwrap();
        path
    }

    fn add(&self, file: &Path, name: &str, more: &[&str]) -> (i32, String, String) {
        let file = file.display().to_string();
        let usual =
            ["models", "add", &file, "--name", name, "--order", "bgr", "--mean", "127.5", "--scale", "0.0078125"];
        self.run(&[&usual[..], &["--license", "my \"own\""], more].concat())
    }

    fn models(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("models")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const USUAL: [&str; 4] = ["--input", "112x112", "--alignment", "arcface"];

#[test]
fn an_embedder_of_ones_own_is_added_listed_verified_and_used() {
    let site = Site::new();
    let net = site.write_net(&arcface_like());
    let (code, out, error) = site.add(&net, "mine", &USUAL);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("64 numbers of 112×112 pixels, as f32") && out.contains("recognition.max_distance"), "{out}");
    for file in ["models/mine.onnx", "models/mine.toml"] {
        let mode = fs::metadata(site.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{file}: the daemon's user has to read it");
    }
    let (code, out, _) = site.run(&["models", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    let mine = list.as_array().unwrap().iter().find(|net| net["name"] == "mine").unwrap();
    assert_eq!(code, 0);
    assert_eq!((&mine["dimension"], &mine["file_ok"], &mine["used"]), (&64.into(), &true.into(), &false.into()));
    assert_eq!((&mine["license"], &mine["precisions"][0]), (&"my \"own\"".into(), &"f32".into()));
    let (code, out, _) = site.run(&["models", "verify"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.lines().any(|line| line.starts_with("mine") && line.contains("ok: loaded in")), "{out}");

    // Nobody measured distances for it, so one has to be given; and it has no 8-bit form.
    site.configure("mine", "auto", "");
    let (code, _, error) = site.run(&["identify", &picture("barack_obama_1.png")]);
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("no distances were measured") && error.contains("recognition.max_distance"), "{error}");
    site.configure("mine", "w8", "max_distance = 0.05");
    let (code, _, error) = site.run(&["identify", &picture("barack_obama_1.png")]);
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("models.precision = \"auto\""), "{error}");
    site.configure("mine", "auto", "max_distance = 0.05");
    let (code, out, error) = site.run(&["identify", &picture("barack_obama_1.png")]);
    assert_eq!(code, 0, "{error}");
    assert!(out.starts_with("Barack Obama") && out.contains("distance 0.00"), "{out}");
    assert_eq!(site.run(&["identify", &picture("joe_biden_1.png")]).0, 1, "another face is another embedding");
}

#[test]
fn an_embedder_with_a_bad_distance_opens_no_door() {
    let site = Site::new();
    let path = site.path("models/models.toml");
    let whole = fs::read_to_string(&path).unwrap();
    for (key, bad) in [("max_spread", "nan"), ("margin", "-0.1"), ("same_face", "9.0"), ("one_moment", "inf")] {
        let changed = whole.lines().map(|line| match line.starts_with(&format!("{key} = ")) {
            true => format!("{key} = {bad}\n"),
            false => format!("{line}\n"),
        });
        fs::write(&path, changed.collect::<String>()).unwrap();
        let (code, _, error) = site.run(&["run"]);
        assert!(code != 0 && error.contains(key) && error.contains("models.toml"), "{code} {error}");
    }
}

#[test]
fn an_embedder_without_its_distances_is_strict_and_says_so() {
    let site = Site::new();
    let (code, out, error) = site.add(&site.write_net(&arcface_like()), "mine", &USUAL);
    assert!(code == 0 && out.contains("max_spread, margin and same_face"), "{out} {error}");
    site.configure("mine", "auto", "max_distance = 0.05");
    let config = site.path("facelatch.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("max_spread = 2.0\n", "").replace("mode = \"unlock\"", "mode = \"attendance\""))
        .unwrap();
    fs::create_dir_all(site.path("frames")).unwrap();
    fs::copy(picture("barack_obama_1.png"), site.path("frames/1.png")).unwrap();
    let (_, _, log) = site.run(&["run"]);
    for part in ["no max_spread, margin, same_face", "mine.toml", "facelatch eval measures them"] {
        assert!(log.contains(part), "{log}");
    }
}

#[test]
fn an_embedder_that_is_not_quantized_can_be_measured() {
    let site = Site::new();
    assert_eq!(site.add(&site.write_net(&arcface_like()), "mine", &USUAL).0, 0);
    for (person, portrait) in [("a", "barack_obama_1"), ("a", "barack_obama_2"), ("b", "joe_biden_1")] {
        let folder = site.path("people").join(person);
        fs::create_dir_all(&folder).unwrap();
        let file = format!("{portrait}.png");
        fs::copy(picture(&file), folder.join(&file)).unwrap();
    }
    let (models, people) = (site.path("models").display().to_string(), site.path("people").display().to_string());
    let (code, out, error) =
        site.run(&["eval", "--models", &models, "--embedder", "mine", "--images", &people, "--json"]);
    assert_eq!(code, 0, "{error}");
    let measured: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&measured["precision"], &measured["pictures"]), (&"f32".into(), &3.into()), "{out}");
}

#[test]
fn the_arcface_template_is_scaled_to_the_input_and_a_file_gives_another() {
    let site = Site::new();
    let onet = root().join("models/onet.onnx");
    // Any quantized net with one output will do to see what is written of it; this one takes 48 pixels.
    let (code, out, error) = site.add(&onet, "small", &["--input", "48x48", "--alignment", "arcface"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("as w8 or int8"), "{out}");
    let entry: toml::Table = fs::read_to_string(site.path("models/small.toml")).unwrap().parse().unwrap();
    let left_eye = entry["net"][0]["alignment"]["points"][0][0].as_float().unwrap();
    assert!((left_eye - 38.2946 * 48.0 / 112.0).abs() < 1e-3, "{left_eye}");
    let template = site.path("template.toml");
    fs::write(&template, "points = [[16, 20], [32, 20], [24, 28], [18, 36], [30, 36]]\nweights = [1, 1, 1, 1, 1]\n")
        .unwrap();
    let template = template.display().to_string();
    let (code, _, error) = site.add(&onet, "other", &["--input", "48x48", "--alignment", &template]);
    assert_eq!(code, 0, "{error}");
    let entry: toml::Table = fs::read_to_string(site.path("models/other.toml")).unwrap().parse().unwrap();
    assert_eq!(entry["net"][0]["alignment"]["points"][1][0].as_float(), Some(32.0));
    assert_eq!(site.run(&["models", "verify"]).0, 0);
}

#[test]
fn what_cannot_be_an_embedder_is_refused_and_nothing_is_written() {
    let site = Site::new();
    let before = site.models();
    let refused = |file: &Path, name: &str, more: &[&str], code: i32, word: &str| {
        let (got, _, error) = site.add(file, name, more);
        assert!(got == code && error.contains(word), "{word}: {got} {error}");
        assert_eq!(site.models(), before, "{word}");
    };
    let whole = arcface_like();
    let net = site.write_net(&whole);
    // Arguments.
    refused(&net, "dlib", &USUAL, 1, "has a net of this name already");
    refused(&net, "models", &USUAL, 1, "models.toml exists already");
    refused(&net, "../mine", &USUAL, 64, "letters, digits");
    refused(&net, "mine", &["--input", "112", "--alignment", "arcface"], 64, "112x112");
    refused(&net, "mine", &["--input", "112x112", "--alignment", "box=wide"], 64, "box=MARGIN");
    refused(&net, "mine", &["--input", "112x112", "--alignment", "box=9"], 1, "alignment must be finite");
    refused(&net, "mine", &["--input", "112x112", "--alignment", "nowhere.toml"], 64, "no file that can be read");
    refused(&net, "mine", &["--input", "112x96", "--alignment", "arcface"], 64, "template is square");
    refused(&site.path("nothing.onnx"), "mine", &USUAL, 74, "nothing.onnx");
    // Nets.
    refused(&net, "mine", &["--input", "96x96", "--alignment", "box=0.1"], 1, "cannot be run on an input of 96×96");
    // The library would look for sizes that fit until the memory is full.
    let dlib = root().join("models/dlib.onnx");
    refused(&dlib, "mine", &USUAL, 1, "an input of 112×112: the file is for an input of 150×150");
    refused(
        &root().join("models/dlib.onnx"),
        "mine",
        &["--input", "150x150", "--alignment", "dlib"],
        1,
        "[1, 256, 2, 2]",
    );
    let bytes = whole.encode_to_vec();
    fs::write(site.path("cut.onnx"), &bytes[..bytes.len() / 2]).unwrap();
    refused(&site.path("cut.onnx"), "mine", &USUAL, 1, "cannot be used");
    fs::write(site.path("text.onnx"), "no net").unwrap();
    refused(&site.path("text.onnx"), "mine", &USUAL, 1, "mine");
    let mut unknown = whole.clone();
    graph(&mut unknown).node[1] = node("Frobnicate", &["conv1"], "prelu1", &[]);
    refused(&site.write_net(&unknown), "mine", &USUAL, 1, "Frobnicate");
    let mut infinite = whole.clone();
    graph(&mut infinite).initializer[3] = tensor("dense", &[784, DIMENSION], std::iter::repeat(f32::NAN));
    refused(&site.write_net(&infinite), "mine", &USUAL, 1, "not finite");
    let mut blind = whole.clone();
    graph(&mut blind).initializer[3] = tensor("dense", &[784, DIMENSION], std::iter::repeat(0.0));
    refused(&site.write_net(&blind), "mine", &USUAL, 1, "the same for different pictures");
}

#[test]
fn a_changed_file_is_named_by_list_and_verify() {
    let site = Site::new();
    let file = site.path("models/rnet.onnx");
    let mut bytes = fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (code, out, _) = site.run(&["models", "list"]);
    assert_eq!(code, 0);
    assert!(out.lines().any(|line| line.contains("rnet") && line.contains("NOT OK")), "{out}");
    let (code, out, _) = site.run(&["models", "verify"]);
    assert_eq!(code, 1);
    assert!(
        out.lines().any(|line| line.starts_with("rnet") && line.contains("FAIL") && line.contains("checksum")),
        "{out}"
    );
}

#[test]
fn a_change_of_the_model_is_worked_off_with_progress_in_the_log() {
    let site = Site::new();
    door::enroll(site.dir.path(), "joe_biden_1.png", "Joe Biden");
    let (_, people, _) = site.run(&["people"]);
    assert!(people.contains("Barack Obama") && people.contains("Joe Biden"), "{people}");
    let (code, _, error) = site.add(&site.write_net(&arcface_like()), "mine", &USUAL);
    assert_eq!(code, 0, "{error}");
    site.configure("mine", "auto", "max_distance = 0.05");
    let mut daemon = site.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(daemon.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = Vec::new();
    for line in log {
        said.push(line);
        // On a busy machine the rest is read in the background, after the start.
        if said.last().is_some_and(|line| line.contains("2 of 2 pictures embedded by the new model")) {
            break;
        }
    }
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    daemon.wait().unwrap();
    let (_, people, _) = site.run(&["people"]);
    assert!(people.contains("Barack Obama") && people.contains("Joe Biden"), "{}", said.join("\n"));
    let (code, out, _) = site.run(&["identify", &picture("joe_biden_1.png")]);
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("Joe Biden"), "{out}");
}

fn picture(name: &str) -> String {
    root().join("tests/data").join(name).display().to_string()
}
